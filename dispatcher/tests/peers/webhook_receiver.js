// A receiver that verifies webhooks with the library of Standard Webhooks, on a free port of the loopback, which it
// prints: node webhook_receiver.js SECRET… The path says whose secret it is: /0, /1 and so on. Each request becomes a
// line with what was verified, or why it was not.
"use strict";

const http = require("node:http");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

const webhooks = process.argv.slice(2).map((secret) => new Webhook(secret));
const server = http.createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
        try {
            const webhook = webhooks[Number(request.url.slice(1))];
            console.log(JSON.stringify({ verified: webhook.verify(Buffer.concat(chunks), request.headers) }));
            response.writeHead(204).end();
        } catch (error) {
            console.log(JSON.stringify({ refused: error.message }));
            response.writeHead(error instanceof WebhookVerificationError ? 401 : 500).end();
        }
    });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
