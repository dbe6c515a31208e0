"""The expert's page: explained cases of one run or several, looked at in a browser of this machine.

Nothing here loads torch unless a live model is asked for. Research only, never for clinical use.
"""
