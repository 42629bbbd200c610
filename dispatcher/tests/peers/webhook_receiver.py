"""A receiver that verifies webhooks with the library of Standard Webhooks, on a free port of the loopback, which it
prints: python3 webhook_receiver.py SECRET… The path says whose secret it is: /0, /1 and so on. Each request becomes a
line with what was verified, or why it was not.
"""

import http.server
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

WEBHOOKS = [Webhook(secret) for secret in sys.argv[1:]]


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            line, status = {"verified": WEBHOOKS[int(self.path[1:])].verify(body, dict(self.headers))}, 204
        except WebhookVerificationError as error:
            line, status = {"refused": str(error)}, 401
        except Exception as error:
            line, status = {"refused": str(error)}, 500
        print(json.dumps(line), flush=True)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
