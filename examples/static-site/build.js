// pages/*.md become site/*.html.
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { marked } from "marked";

const page = (title, body) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>${title}</title>
<link rel="stylesheet" href="style.css">
${body}</html>
`;

await mkdir("site", { recursive: true });
await writeFile("site/style.css", await readFile("style.css"));
for (const name of (await readdir("pages")).sort()) {
  const text = await readFile(`pages/${name}`, "utf8");
  const title = text.match(/^# (.*)/m)?.[1] ?? name;
  await writeFile(`site/${name.replace(/\.md$/, ".html")}`, page(title, marked(text)));
}
