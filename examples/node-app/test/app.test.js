import assert from "node:assert/strict";
import { test } from "node:test";

import { makeApp } from "../src/app.js";
import { Links } from "../src/links.js";

test("a link is made and followed", async () => {
  const app = makeApp();
  const made = await app.inject({
    method: "POST",
    url: "/links",
    payload: { target: "https://example.com/x" },
  });
  assert.equal(made.statusCode, 201);
  const followed = await app.inject(`/${made.json().name}`);
  assert.equal(followed.statusCode, 302);
  assert.equal(followed.headers.location, "https://example.com/x");
  const seen = await app.inject(`/links/${made.json().name}`);
  assert.equal(seen.json().visits, 1);
});

test("health names the version", async () => {
  const answer = await makeApp().inject("/healthz");
  assert.deepEqual(answer.json(), { status: "ok", version: process.env.APP_VERSION ?? "dev" });
});

test("what cannot be is said with its status", async () => {
  const app = makeApp();
  assert.equal((await app.inject("/nowhere")).statusCode, 404);
  const bare = await app.inject({ method: "POST", url: "/links", payload: {} });
  assert.equal(bare.statusCode, 400);
  const odd = await app.inject({ method: "POST", url: "/links", payload: { target: "ftp://x" } });
  assert.equal(odd.statusCode, 400);
  assert.match(odd.json().error, /http/);
});

test("a defect tells nothing to the outside", async () => {
  class Broken extends Links {
    follow() {
      throw new Error("secret detail");
    }
  }
  const answer = await makeApp({ links: new Broken() }).inject("/any");
  assert.equal(answer.statusCode, 500);
  assert.doesNotMatch(answer.body, /secret/);
});

test("responses are counted by their status", async () => {
  const app = makeApp();
  await app.inject("/healthz");
  await app.inject("/nowhere");
  const { body } = await app.inject("/metrics");
  assert.match(body, /^links_responses_total\{code="2xx"\} 1$/m);
  assert.match(body, /^links_responses_total\{code="4xx"\} 1$/m);
  assert.match(body, /^links_response_seconds_count 2$/m);
});
