"""The words that travel between Keeps, Stewards, registries and third parties; pure.

claims    what a Keep claims beside its key, and how the hardware's report binds it
result    what a certificate says about the key it certifies
sealing   bodies that only one Keep can open, as they stream
relying   who is this TLS peer?
"""
