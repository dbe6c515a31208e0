"""Explanation: captured attention, rollout, overlays."""
