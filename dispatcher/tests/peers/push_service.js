// A push service and its browsers (web-push-testing) on a free port of the loopback, which it prints.
"use strict";

const http = require("node:http");
const { PushApiModel } = require("web-push-testing/src/PushApiModel.js");
const Server = require("web-push-testing/src/server.js");

const model = new PushApiModel();
const server = new Server(model, 0);
// By itself it listens on every address, and takes its port for the one that it was given.
server._app.listen = (wanted, ready) => {
    const listener = http.createServer(server._app).listen(wanted, "127.0.0.1", () => {
        const { port } = listener.address();
        model.notifyUrl = `http://localhost:${port}/notify/`;
        console.log(port);
        ready();
    });
    return listener;
};
server.startServer();
