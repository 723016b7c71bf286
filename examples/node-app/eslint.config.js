import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: ["reports/"] },
  js.configs.recommended,
  {
    languageOptions: { globals: globals.node },
    rules: { eqeqeq: "error", "no-eval": "error", "prefer-const": "error" },
  },
];
