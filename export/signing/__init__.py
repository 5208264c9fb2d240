"""Signed model versions: one signature about everything that decides what is answered, and who is believed.

    signing.py    `sign_version` writes the signature of a version, with a private key of an elliptic curve
    trust.py      `Trust` holds public keys; `Trust.admit` copies a version where nobody else writes, and opens the copy
                  if the signature of a trusted key is about it
    contents.py   what a signature is about
    envelope.py   the signature's file: an in-toto Statement in a DSSE envelope, in a Sigstore bundle

The library `model-signing` computes hashes and signatures, offline.
"""
