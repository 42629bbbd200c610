// A push service and its browsers (web-push-testing) on the loopback: node push_service.js PORT
"use strict";

const http = require("node:http");
const { PushApiModel } = require("web-push-testing/src/PushApiModel.js");
const Server = require("web-push-testing/src/server.js");

const server = new Server(new PushApiModel(), Number(process.argv[2]));
// By itself it listens on every address.
server._app.listen = (port, ready) => http.createServer(server._app).listen(port, "127.0.0.1", ready);
server.startServer();
