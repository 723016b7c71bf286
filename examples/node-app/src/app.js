import Fastify from "fastify";

import { Links, Refused } from "./links.js";

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

  app.setErrorHandler((error, request, reply) => {
    const status = error instanceof Refused ? error.status : (error.statusCode ?? 500);
    if (status >= 500) {
      request.log.error(error);
    }
    return reply.code(status).send({ error: status >= 500 ? "internal error" : error.message });
  });

  app.get("/healthz", () => ({ status: "ok", version: process.env.APP_VERSION ?? "dev" }));

  app.post("/links", { schema: newLink }, (request, reply) =>
    reply.code(201).send(links.add(request.body.target, request.body.name)),
  );

  app.get("/links/:name", (request) => links.get(request.params.name));

  app.get("/:name", (request, reply) => reply.redirect(links.follow(request.params.name), 302));

  return app;
}
