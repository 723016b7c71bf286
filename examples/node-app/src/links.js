import { nanoid } from "nanoid";

/** Why a link was refused; `status` is the HTTP status for it. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Short names for URLs, kept in memory, the oldest forgotten above `limit`. */
export class Links {
  #links = new Map();
  #limit;
  #makeName;

  constructor({ limit = 10_000, makeName = () => nanoid(8) } = {}) {
    this.#limit = limit;
    this.#makeName = makeName;
  }

  /** Keep `target` under a new name, or under `name`; returns the link. */
  add(target, name = this.#makeName()) {
    const url = parse(target);
    if (!/^[\w-]{1,64}$/.test(name)) {
      throw new Refused(400, "a name is 1 to 64 letters, digits, - or _");
    }
    if (this.#links.has(name)) {
      throw new Refused(409, `${name} is taken`);
    }
    if (this.#links.size >= this.#limit) {
      this.#links.delete(this.#links.keys().next().value);
    }
    const link = { name, target: url.href, visits: 0 };
    this.#links.set(name, link);
    return { ...link };
  }

  get(name) {
    const link = this.#links.get(name);
    if (!link) {
      throw new Refused(404, `there is no link ${name}`);
    }
    return link;
  }

  /** Count a visit; returns where to go. */
  follow(name) {
    const link = this.get(name);
    link.visits += 1;
    return link.target;
  }
}

function parse(target) {
  let url;
  try {
    url = new URL(target);
  } catch {
    throw new Refused(400, "not a URL");
  }
  if (!["http:", "https:"].includes(url.protocol)) {
    throw new Refused(400, "only http and https URLs can be followed");
  }
  return url;
}
