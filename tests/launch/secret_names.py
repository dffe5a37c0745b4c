"""Paths of files that hold secrets by custom, and of files that only look like them."""

KEYS = (
    *("keys/my.pem", "Server.KEY", "store.p12", "www.example.com.pem", "example.com.key", "dist.key"),
    *("id_rsa", "keys/deploy_id_ed25519", "id_rsa.old", "id_ecdsa.sample", "server.pem.bak", "app.key~"),
)
SETTINGS = (
    *(".env", ".env.local", ".ENV", "deploy/prod.env", ".envrc", ".env~", ".env.py", ".env.sample-prod"),
    *("sub/.netrc", ".npmrc", ".pypirc", ".git-credentials"),
)
FOLDERS = (
    *(".ssh/config", ".ssh/example.py", ".aws/credentials", ".kube/config"),
    *("secrets/hf", "token/README.md", "secrets/export.sh"),
)
ACCOUNTS = (
    *("service-account.json", "serviceaccount.json", "a/b/my_service_account_2.json"),
    *("client_secret_1.json", "kaggle.json", "gcp-Credentials-prod.json", "credentials-sample-prod.json"),
    *("application_default_credentials.json", "credentials.yaml", "credentials.json.bak"),
)
TOKENS = (
    *("secrets.toml", ".secrets.toml", "secrets.prod.yaml", "hf_token", "token.json", "hf-token.txt"),
    *("github_token.txt", "api_key.txt", "passwords"),
)
SECRETS = (*KEYS, *SETTINGS, *FOLDERS, *ACCOUNTS, *TOKENS)

CODE = ("new.py", "configs/credentials.py", "token/__init__.py", "secrets/reader.py", "secrets/kernel.cu")
TEMPLATES = (
    *(".env.example", ".env.local.example", "deploy/.env.template", "sample.env", "credentials.sample.json"),
    *("secrets.example.yaml", "client_secret_template.json"),
)
OTHERS = (
    *("id_rsa.pub", "id_rsa_laptop.pub", "tokenizer.json", "special_tokens_map.json", "tokens.txt"),
    *("mask_token.txt", "key.md", "environment.yml", "keyboard.json", "secretary.json"),
)
PLAIN = (*CODE, *TEMPLATES, *OTHERS)
