"""`bench switch`: a server under load that is switched from version to version, and versions that it must not serve."""
