// stripe-stateful-mock on a free loopback port, with what it lacks: faults of the refund call, and answers given by a test.
const http = require("http");
const log = require("loglevel");
const { createExpressApp } = require("stripe-stateful-mock");

const ERRORS = {
  429: { message: "Too many requests in a period of time.", type: "rate_limit_error", code: "rate_limit" },
  500: { message: "An unknown error occurred", type: "api_error" },
};
const faults = []; // of the next refunds: "429", "500", "500_after", "hang_after", "drop_after"
const answers = new Map(); // path -> JSON text
const asked = []; // every call, and whether the mock answered it from its memory of keys

log.setLevel("silent");
const mock = createExpressApp();

function fail(response, status, end = response.end) {
  const body = JSON.stringify({ error: ERRORS[status] });
  response.statusCode = status;
  response.setHeader("content-type", "application/json");
  response.setHeader("content-length", Buffer.byteLength(body));
  end.call(response, body);
}

function control(request, response) {
  const path = request.url.slice("/control".length);
  if (path === "/asked") return response.end(JSON.stringify(asked));
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    if (path === "/faults") faults.splice(0, faults.length, ...JSON.parse(body));
    else if (body === "null") answers.delete(path);
    else answers.set(path, body);
    response.end();
  });
}

const server = http.createServer((request, response) => {
  if (request.url.startsWith("/control/")) return control(request, response);
  const call = {
    method: request.method,
    path: request.url.split("?")[0],
    key: request.headers["idempotency-key"] || "",
    agent: request.headers["x-stripe-client-user-agent"] || "",
  };
  asked.push(call);
  const end = response.end;
  response.end = (...body) => {
    call.replayed = response.getHeader("idempotent-replayed") === "true";
    return end.apply(response, body);
  };
  if (request.method === "GET" && answers.has(call.path)) {
    response.setHeader("content-type", "application/json");
    return response.end(answers.get(call.path));
  }
  const fault = call.method === "POST" && call.path === "/v1/refunds" ? faults.shift() : undefined;
  if (fault === "429" || fault === "500") return request.resume().on("end", () => fail(response, Number(fault)));
  if (fault) {
    // The mock has carried the call out when it ends its response; only the client doesn't hear of it.
    if (fault === "500_after") response.end = () => fail(response, 500, end);
    else response.end = fault === "drop_after" ? () => request.socket.destroy() : () => response;
  }
  mock(request, response);
});

server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
