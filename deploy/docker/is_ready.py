"""Exit with 0 where the server of this container answers every model, and with 1 where it does not.

Docker's health check runs it, without heatserve's packages; an argument is another address than 127.0.0.1:8000.
Kubernetes asks the same path by itself.
"""

import http.client
import ssl
import sys
import urllib.error
import urllib.request

_ADDRESS = "127.0.0.1:8000"
_PATH = "/v2/health/ready"
_SECONDS = 1.0


def is_ready(url: str) -> bool | None:
    """Whether the server says so; None where nobody answers. Its certificate, of another name, is not checked."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    no_proxy = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:  # an answer: that it is not ready
        sys.stderr.write(f"{url}: {error}\n")
        return False
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return None


def main() -> int:
    """Ask over http, and where nobody answers so, over https."""
    address = sys.argv[1] if len(sys.argv) > 1 else _ADDRESS
    found = is_ready(f"http://{address}{_PATH}")
    return 0 if (is_ready(f"https://{address}{_PATH}") if found is None else found) else 1


if __name__ == "__main__":
    sys.exit(main())
