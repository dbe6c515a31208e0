"""``radvqa data get``: what can be fetched from where, resumable transfers, safe unpacking, manifests."""
