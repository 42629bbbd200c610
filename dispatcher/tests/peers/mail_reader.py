"""A receiver that reads e-mails with Python's own package, on a free port of the loopback, which it prints:

    python3 mail_reader.py [(starttls|implicit) CERTIFICATE KEY USER PASSWORD]

With certificate and user, nobody sends without TLS and without having signed in. Each e-mail becomes a line in JSON.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


def read(envelope, session):
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    parts = list(message.walk())
    values = [value for part in parts for value in part.values()]
    return {
        "from": envelope.mail_from,
        "to": envelope.rcpt_tos,
        "hello": session.host_name,
        "encrypted": session.ssl is not None,
        "authenticated": session.authenticated,
        "headers": [[name, str(value)] for name, value in message.items()],
        "addresses": {
            name: [[address.display_name, address.addr_spec] for address in message[name].addresses]
            for name in ("from", "to")
        },
        "date": message["date"].datetime.isoformat(),
        "type": message.get_content_type(),
        "parts": [
            [part.get_content_type(), part.get_content_charset(), part.get_content().replace("\r\n", "\n")]
            for part in parts
            if not part.is_multipart()
        ],
        "preferred": message.get_body().get_content_type(),
        "defects": [repr(defect) for of in parts + values for defect in of.defects],
        "ascii": envelope.content.isascii(),
        "longest": max(map(len, envelope.content.split(b"\r\n"))),
        "bare": any(end in envelope.content.replace(b"\r\n", b"") for end in (b"\r", b"\n")),
    }


class Reader:
    async def handle_DATA(self, server, session, envelope):
        print(json.dumps(read(envelope, session)), flush=True)
        return "250 2.0.0 OK"


async def main(protection=None, certificate=None, key=None, user=None, password=None):
    options, implicit = {}, None
    if protection:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
        right = (user.encode(), password.encode())

        def authenticate(server, session, envelope, mechanism, login):
            return AuthResult(success=(login.login, login.password) == right, handled=False)

        options = {"auth_required": True, "authenticator": authenticate}
        if protection == "starttls":
            options |= {"require_starttls": True, "tls_context": tls}
        else:
            # It can't see that there was TLS from the first byte.
            options |= {"auth_require_tls": False}
            implicit = tls
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Reader(), hostname="reader", **options), "127.0.0.1", 0, ssl=implicit
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
