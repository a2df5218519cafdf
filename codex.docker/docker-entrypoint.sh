#!/bin/sh
# docker-entrypoint.sh CLI [--model MODEL] [ARGUMENT…] <PROMPT
#
# Runs one of five AI CLIs against a LiteLLM proxy: in the image, and on a host as CLI_ENTRYPOINT.
#   no ARGUMENT   the CLI's headless form: prompt on stdin, answer on stdout
#   ARGUMENTs     "CLI ARGUMENT…" as given and stdin untouched, with the same settings in place
# The model is a setting: --model X, --model=X and -m X are taken out of the arguments.
#
# LITELLM_BASE_URL     the proxy, with or without a trailing / or /v1
# LITELLM_API_KEY      its key, if it wants one
# LITELLM_MODEL        the model when no argument names one (opencode: before any argument);
#                      "auto" is the same as none
# CLI_ENV_PASS         the names of the variables that the CLI gets beside those that every
#                      program needs, separated by commas
# CODEX_SERVE_RUN_DIR  a folder for this run that does not exist yet: it is made here, and the
#                      caller removes it; without it a new one below ${TMPDIR:-/tmp}, which
#                      nobody removes
#
# All that a run writes goes into that folder. Nothing of ours goes to stdout, as it would be
# part of the answer; no secret and no prompt goes on a command line. The last step is exec:
# signals reach the CLI and the exit code is the CLI's. Exit codes of our own: 64 wrong
# arguments, 65 the prompt is too long, 73 no folder to write in, 78 a setting is missing or
# wrong, 127 no such CLI.
#
# Variables of the script's own start with _, so that none is one that the CLI is to get.

set -eu
umask 077
_known_clis='codex, claude, gemini, opencode, qwen'

fail() {
  _status=$1
  shift
  printf 'docker-entrypoint: %s\n' "$*" >&2
  exit "$_status"
}

# --- what is asked for --------------------------------------------------------------------------

[ $# -gt 0 ] || fail 64 "the first argument must be one of $_known_clis"
_cli=$1
shift
case $_cli in
  codex | claude | gemini | opencode | qwen) ;;
  *) fail 127 "there is no CLI '$_cli' here, only $_known_clis" ;;
esac
command -v "$_cli" >/dev/null || fail 127 "$_cli is not installed: it is not on the PATH"

# Every argument goes once from the front to the back, except the model's.
_named_model=
_options=yes
_left=$#
while [ "$_left" -gt 0 ]; do
  _argument=$1
  shift
  _left=$((_left - 1))
  case $_options$_argument in
    yes--model=*)
      _named_model=${_argument#--model=}
      continue
      ;;
    yes--model | yes-m)
      [ "$_left" -gt 0 ] || fail 64 "$_argument must be followed by the name of a model"
      _named_model=$1
      shift
      _left=$((_left - 1))
      continue
      ;;
    yes--) _options=no ;;
  esac
  set -- "$@" "$_argument"
done
_headless=no
[ $# -gt 0 ] || _headless=yes

[ "$_named_model" != auto ] || _named_model=
[ "${LITELLM_MODEL:-}" != auto ] || LITELLM_MODEL=
_model=${_named_model:-${LITELLM_MODEL:-}}
[ "$_cli" != opencode ] || _model=${LITELLM_MODEL:-$_named_model}

_base=${LITELLM_BASE_URL:-}
while :; do
  case $_base in
    */) _base=${_base%/} ;;
    */v1) _base=${_base%/v1} ;;
    *) break ;;
  esac
done

# Both go into settings files, where no part of them may mean anything.
case $_model in
  -* | *[!][A-Za-z0-9._:/@+=,-]*)
    fail 64 "a model's name must be of letters, digits and . _ : / @ + = , [ ] - and not start with -"
    ;;
esac
case $_base in
  *[!][A-Za-z0-9._:/@%~-]*) fail 78 "LITELLM_BASE_URL must be a plain URL, as http://litellm:4000" ;;
  '' | http://?* | https://?*) ;;
  *) fail 78 "LITELLM_BASE_URL must start with http:// or https://" ;;
esac
case $* in
  --version | -v | -V | --help | -h) ;; # answered without a proxy
  *)
    [ -n "$_base" ] ||
      fail 78 "LITELLM_BASE_URL is not set: it must be the proxy's URL, as http://litellm:4000"
    [ "$_cli$_model" != opencode ] ||
      fail 78 "opencode has no model of its own: name one in LITELLM_MODEL or with --model"
    ;;
esac

# --- a folder of the run's own ------------------------------------------------------------------

if [ -n "${CODEX_SERVE_RUN_DIR:-}" ]; then
  _run_dir=$CODEX_SERVE_RUN_DIR
else
  _run_dir=$(mktemp -d "${TMPDIR:-/tmp}/codex-cli.XXXXXXXX") ||
    fail 73 "no folder can be made below ${TMPDIR:-/tmp}: TMPDIR must name one that is writable"
fi
case $_run_dir in
  /*) ;;
  *) fail 73 "the run's folder must be an absolute path, not '$_run_dir'" ;;
esac
# The first mkdir makes the folder, the second fails where another run has been.
{ mkdir -p "$_run_dir" && mkdir "$_run_dir/home" "$_run_dir/work" "$_run_dir/tmp"; } ||
  fail 73 "the run's folder $_run_dir must be one that can be made and that no other run used"

# Settings are found through HOME once nothing points elsewhere; the work folder is empty, so
# that a prompt has no file there to name.
export HOME="$_run_dir/home" TMPDIR="$_run_dir/tmp"
cd "$_run_dir/work"

# --- the CLI's environment ----------------------------------------------------------------------

# The CLI gets what every program needs, what is ours, what CLI_ENV_PASS names, and what is
# exported further down. Whatever else whoever started us has set goes: another account, another
# folder for settings, and what a CLI of tomorrow will read. So no list of those is kept here.
#
# Names are taken from env -0, as a value may hold a line that looks like a variable. A shell
# cannot unset each: bash keeps some, and hands on names that are no identifiers. With those, env
# does it at the end.
_newline='
'
_mark=$(printf '\001') # stands for a line break in a name or a value
_names=$(env -0 | tr '\n\0' '\001\n' | cut -d = -f 1) && [ -n "$_names" ] ||
  fail 78 "the environment cannot be read: env (with its option -0), tr and cut must be on the PATH"
_pass=,${CLI_ENV_PASS:-},
_left_to_env=
set -f
IFS=$_newline
for _name in $_names; do
  case $_name in
    *"$_mark"*) fail 78 "a variable's name must not hold a line break" ;;
    [!A-Za-z]* | *[!A-Za-z0-9_]* | IFS) # IFS is used again below
      _left_to_env="$_left_to_env-u$_name$_newline"
      continue
      ;;
    PATH | HOME | PWD | TMPDIR | USER | LOGNAME | SHELL | TERM | TZ) continue ;;
    LANG | LANGUAGE | LC_*) continue ;;
    HTTP_PROXY | HTTPS_PROXY | ALL_PROXY | NO_PROXY) continue ;;
    http_proxy | https_proxy | all_proxy | no_proxy) continue ;;
    NODE_EXTRA_CA_CERTS | SSL_CERT_FILE | SSL_CERT_DIR) continue ;;
    REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | GIT_SSL_CAINFO) continue ;;
    LITELLM_BASE_URL | LITELLM_API_KEY | LITELLM_MODEL | CLI_PROVIDER_NAME) continue ;;
  esac
  case $_pass in
    *",$_name,"*) continue ;;
  esac
  # With "command" a name that is read-only is an error that can be answered, not an exit.
  command unset -v "$_name" 2>/dev/null || _left_to_env="$_left_to_env-u$_name$_newline"
done
unset IFS
set +f

# A proxy without keys takes any, but every CLI insists on having one.
export LITELLM_API_KEY="${LITELLM_API_KEY:-none}"

# --- the prompt ---------------------------------------------------------------------------------

# It is read to its end first: gemini fails when stdin stays silent for half a second after its
# start. claude and qwen take a prompt that starts with / for one of their own commands, which a
# newline in front prevents; an empty prompt stays empty, as the CLIs have an error for that. The
# copy loses its name before the CLI starts, so no prompt stays behind in the folder.
if [ "$_headless" = yes ]; then
  _prompt=$_run_dir/prompt
  case $_cli in
    claude | qwen) printf '\n' >"$_prompt" ;;
    *) : >"$_prompt" ;;
  esac
  _before=$(wc -c <"$_prompt")
  cat >>"$_prompt" || fail 73 "the prompt does not fit into $_run_dir"
  _size=$(wc -c <"$_prompt")
  [ "$_size" -gt "$_before" ] || : >"$_prompt"
  exec <"$_prompt"
  rm "$_prompt"
  # Somewhat above this gemini sends nothing, answers nothing and exits with 0.
  [ "$_cli" != gemini ] || [ "$_size" -le 4000000 ] ||
    fail 65 "gemini takes a prompt of at most 4,000,000 bytes, and this one is longer"
fi

# --- each CLI's settings and headless form ------------------------------------------------------

case $_cli in
  codex)
    mkdir "$HOME/.codex"
    [ -z "$_model" ] || printf 'model = "%s"\n' "$_model" >"$HOME/.codex/config.toml"
    cat >>"$HOME/.codex/config.toml" <<TOML
model_provider = "litellm"
check_for_update_on_startup = false

[analytics]
enabled = false

[feedback]
enabled = false

[features]
plugins = false
apps = false
remote_plugin = false
# With this one on, codex tries for ever to reach a model that is down.
unbounded_connection_retries = false

[model_providers.litellm]
name = "LiteLLM"
base_url = "$_base/v1"
env_key = "LITELLM_API_KEY"
wire_api = "responses"
request_max_retries = 2
stream_max_retries = 2
TOML
    if [ "$_headless" = yes ]; then
      set -- exec --skip-git-repo-check --ephemeral --color never ${_model:+--model "$_model"} -
    fi
    ;;

  claude)
    export ANTHROPIC_BASE_URL="$_base" ANTHROPIC_AUTH_TOKEN="$LITELLM_API_KEY"
    if [ -n "$_model" ]; then
      export ANTHROPIC_MODEL="$_model" ANTHROPIC_DEFAULT_HAIKU_MODEL="$_model"
    fi
    export CLAUDE_CODE_DISABLE_FILE_MENTIONS=1 # else @/path in a prompt sends that file
    export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 CLAUDE_CODE_MAX_RETRIES=2
    export DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 DISABLE_ERROR_REPORTING=1
    [ "$_headless" = no ] || set -- -p --no-session-persistence ${_model:+--model "$_model"}
    ;;

  gemini)
    mkdir "$HOME/.gemini"
    cat >"$HOME/.gemini/settings.json" <<'JSON'
{
  "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": false}},
  "general": {"enableAutoUpdate": false, "maxAttempts": 2},
  "privacy": {"usageStatisticsEnabled": false},
  "telemetry": {"enabled": false}
}
JSON
    export GOOGLE_GEMINI_BASE_URL="$_base" GEMINI_API_KEY="$LITELLM_API_KEY"
    export GEMINI_CLI_NO_RELAUNCH=true
    # Without a model gemini asks a second one which to take, for 90 s or more where the proxy
    # has no such model, and then takes pro.
    export GEMINI_MODEL="${_model:-pro}"
    [ "$_headless" = no ] || set -- ${_model:+--model "$_model"}
    ;;

  opencode)
    _settings=$HOME/.config/opencode
    # The folder and the lock file keep opencode from running an npm install at every start.
    mkdir -p "$_settings/node_modules"
    cat >"$_settings/package-lock.json" <<'JSON'
{"lockfileVersion": 3, "packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
JSON
    cat >"$_settings/opencode.json" <<JSON
{
  "model": "litellm/$_model",
  "enabled_providers": ["litellm"],
  "provider": {
    "litellm": {
      "npm": "@ai-sdk/openai-compatible",
      "options": {"baseURL": "$_base/v1", "apiKey": "{env:LITELLM_API_KEY}"},
      "models": {"$_model": {}}
    }
  },
  "permission": {"edit": "deny", "bash": "deny", "webfetch": "deny", "external_directory": "deny"}
}
JSON
    export OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_SHARE=1
    export OPENCODE_DISABLE_LSP_DOWNLOAD=1 OPENCODE_DISABLE_DEFAULT_PLUGINS=1
    [ "$_headless" = no ] || set -- run --model "litellm/$_model"
    ;;

  qwen)
    mkdir "$HOME/.qwen"
    cat >"$HOME/.qwen/settings.json" <<'JSON'
{
  "security": {"auth": {"selectedType": "openai"}, "folderTrust": {"enabled": false}},
  "general": {"enableAutoUpdate": false},
  "privacy": {"usageStatisticsEnabled": false},
  "telemetry": {"enabled": false},
  "memory": {"enableManagedAutoMemory": false, "enableManagedAutoDream": false},
  "model": {"generationConfig": {"maxRetries": 2}}
}
JSON
    export OPENAI_BASE_URL="$_base/v1" OPENAI_API_KEY="$LITELLM_API_KEY" QWEN_CODE_NO_RELAUNCH=true
    [ -z "$_model" ] || export OPENAI_MODEL="$_model"
    [ "$_headless" = no ] || set -- ${_model:+--model "$_model"}
    ;;
esac

set -- "$_cli" "$@"
if [ -n "$_left_to_env" ]; then
  IFS=$_newline
  set -f
  set -- env $_left_to_env "$@"
fi
exec "$@"
