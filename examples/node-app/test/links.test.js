import assert from "node:assert/strict";
import { test } from "node:test";

import { Links, Refused } from "../src/links.js";

const refused = (status) => (error) => error instanceof Refused && error.status === status;

test("a link leads to its target and counts visits", () => {
  const links = new Links();
  const { name } = links.add("https://example.com/a?b=c");
  assert.equal(links.follow(name), "https://example.com/a?b=c");
  assert.equal(links.get(name).visits, 1);
});

test("a name is given once", () => {
  const links = new Links();
  links.add("https://example.com/", "docs");
  assert.throws(() => links.add("https://example.com/other", "docs"), refused(409));
});

test("only http and https can be followed", () => {
  for (const target of ["javascript:alert(1)", "file:///etc/passwd", "nonsense"]) {
    assert.throws(() => new Links().add(target), refused(400), target);
  }
});

test("names that do not fit a path are refused", () => {
  for (const name of ["", "a/b", "ü", "x".repeat(65)]) {
    assert.throws(() => new Links().add("https://example.com/", name), refused(400), name);
  }
});

test("the oldest link is forgotten first", () => {
  const links = new Links({ limit: 2 });
  for (const name of ["one", "two", "three"]) {
    links.add("https://example.com/", name);
  }
  assert.throws(() => links.get("one"), refused(404));
  assert.equal(links.get("three").name, "three");
});
