"""Exit with 0 where the server of this container answers every model, and with 1 where it does not.

Docker's health check runs it, without heatserve's packages; an argument is another address than 127.0.0.1:8000.
Kubernetes asks the same path by itself.
"""

import ssl
import sys
import urllib.request

_ADDRESS = "127.0.0.1:8000"
_PATH = "/v2/health/ready"
_SECONDS = 1.0


def is_ready(url: str) -> bool:
    """Whether the server says so. Its certificate is not for 127.0.0.1, and is not looked at."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    no_proxy = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError as error:  # of which urllib's errors are
        sys.stderr.write(f"{url}: {error}\n")
        return False


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else _ADDRESS
    sys.exit(not any(is_ready(f"{scheme}://{address}{_PATH}") for scheme in ("http", "https")))
