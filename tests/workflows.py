"""Workflows to generate files from."""

from __future__ import annotations

from shipline.config import loads
from shipline.deliver.ci import CiSection, Login, SigningSecret, Workflow
from shipline.deliver.project import Toolchain

SMALL = Workflow("registry.example/team/app", "shipline==1.2.3")
FULL = Workflow(
    "ghcr.io/team/app",
    "shipline==1.2.3",
    platforms=("linux/amd64", "linux/arm64", "linux/s390x"),
    tests=("lint", "test"),
    reports=("reports/junit.xml", "reports/*.sarif", "reports/lint.sarif", "odd name;rm.xml"),
    build=("--file", "docker/Dockerfile", "--build-arg", 'A=$(id) `id` "q" \\ $HOME'),
    context="services/app",
    variables=("NPM_TOKEN",),
    logins=(
        Login("ghcr.io", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
        Login("eu.example:5000", "EU_EXAMPLE_5000_USERNAME", "EU_EXAMPLE_5000_PASSWORD"),
    ),
    signing=SigningSecret("COSIGN_PRIVATE_KEY", "keys/cosign.key"),
    toolchain=Toolchain("node", "24", ".nvmrc", ("npm ci",)),
    section=CiSection(secrets=("DEPLOY_TOKEN",), release_setup=("./get-scanner.sh", "true")),
)
KEYLESS = Workflow(
    "registry.example/team/app",
    "shipline==1.2.3",
    logins=(Login("registry.example", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"),),
    section=CiSection(login=("registry-login | shipline login x",), oidc_audience="registry"),
)
OTHERS = tuple(
    Workflow(
        "registry.gitlab.com/team/app",
        "shipline==1.2.3",
        tests=("test",),
        logins=(Login("registry.gitlab.com", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"),),
        toolchain=toolchain,
        section=CiSection(branches=("trunk",), tags=()),
    )
    for toolchain in (Toolchain("go", "1.25", "go.mod"), Toolchain("python", "3.13"), None)
)
WITH_CACHE = Workflow(
    "registry.example/team/app",
    "shipline==1.2.3",
    build=("--cache-from", "type=gha,scope=app", "--cache-to", "mode=max,type=gha"),
)
STAGED = Workflow(
    "ghcr.io/team/app",
    "shipline==1.2.3",
    tests=("test",),
    logins=(Login("ghcr.io", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"),),
    signing=SigningSecret("COSIGN_PRIVATE_KEY"),
    toolchain=Toolchain("node", "24", ".nvmrc", ("npm ci",)),
    environments=loads(
        b"""
environments:
  prod.eu:
    gitops:
      repository: ssh://git@git.example/team/deploy.git
      updates: [{kustomization: prod}]
      pull-request: true
    after: staging
    approvals: {by: ["*@example.org"]}
    branches: [main, "release/**"]
    health: {argocd: {server: "https://cd.example", application: app, token: CD_TOKEN}}
  staging:
    gitops: {repository: "git@git.example:team/deploy.git", updates: [{kustomization: staging}]}
    after: dev
    promotion: manual
    health: {url: {address: "https://staging.example/healthz"}, timeout: 20m}
    checks: {smoke: {run: npm run smoke, pass-env: [SMOKE_TOKEN, "CI_*"], timeout: 5m}}
  dev:
    gitops: {repository: "https://git.example:8443/deploy.git", updates: [{kustomization: dev}]}
    health: {kubernetes: {deployment: app}}
""",
        "shipline.yaml",
        {},
    ).environments
    or {},
)
ALL = (SMALL, WITH_CACHE, FULL, KEYLESS, STAGED, *OTHERS)
