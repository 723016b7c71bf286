import Fastify from "fastify";

import { Links, Refused } from "./links.js";
import { Metrics } from "./metrics.js";

const newLink = {
  body: {
    type: "object",
    required: ["target"],
    additionalProperties: false,
    properties: { target: { type: "string", maxLength: 2048 }, name: { type: "string" } },
  },
};

/** The HTTP interface of `links`; nothing listens yet. */
export function makeApp({ links = new Links(), ...options } = {}) {
  const app = Fastify(options);
  const metrics = new Metrics();

  app.setErrorHandler((error, request, reply) => {
    const status = error instanceof Refused ? error.status : (error.statusCode ?? 500);
    if (status >= 500) {
      request.log.error(error);
    }
    return reply.code(status).send({ error: status >= 500 ? "internal error" : error.message });
  });

  app.addHook("onResponse", async (request, reply) => {
    metrics.count(reply.statusCode, reply.elapsedTime / 1000);
  });

  app.get("/metrics", (request, reply) =>
    reply.type("text/plain; version=0.0.4").send(metrics.toString()),
  );

  app.get("/healthz", () => ({ status: "ok", version: process.env.APP_VERSION ?? "dev" }));

  app.post("/links", { schema: newLink }, (request, reply) =>
    reply.code(201).send(links.add(request.body.target, request.body.name)),
  );

  app.get("/links/:name", (request) => links.get(request.params.name));

  app.get("/:name", (request, reply) => reply.redirect(links.follow(request.params.name), 302));

  return app;
}
