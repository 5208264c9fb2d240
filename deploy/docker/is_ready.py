"""Exit with 0 where the server of this container answers every model, and with 1 where it does not.

Docker's health check runs it, without heatserve's packages. Kubernetes asks the same path by itself.
"""

import ssl
import sys
import urllib.request

_ADDRESS = "127.0.0.1:8000/v2/health/ready"
_SECONDS = 1.0


def is_ready(scheme: str) -> bool:
    """Whether the server says so over http or https. Its certificate is not for 127.0.0.1, and is not looked at."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{scheme}://{_ADDRESS}", timeout=_SECONDS, context=context) as answer:
            return bool(answer.status == 200)
    except OSError as error:  # of which urllib's errors are
        print(f"{scheme}://{_ADDRESS}: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(not (is_ready("http") or is_ready("https")))
