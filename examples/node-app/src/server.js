import { makeApp } from "./app.js";

const app = makeApp({ logger: { level: process.env.LOG_LEVEL ?? "info" } });

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    await app.close(); // requests in flight end first
    process.exit(0);
  });
}

await app.listen({ host: process.env.HOST ?? "0.0.0.0", port: Number(process.env.PORT ?? 8080) });
