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
# CODEX_SERVE_RUN_DIR  a folder for this run that does not exist yet: it is made here, and the
#                      caller removes it; without it a new one below ${TMPDIR:-/tmp}, which
#                      nobody removes
#
# All that a run writes goes into that folder. Nothing of ours goes to stdout, as it would be
# part of the answer; no secret and no prompt goes on a command line. The last step is exec:
# signals reach the CLI and the exit code is the CLI's. Exit codes of our own: 64 wrong
# arguments, 65 the prompt is too long, 73 no folder to write in, 78 a setting is missing or
# wrong, 127 no such CLI.

set -eu
umask 077
known_clis='codex, claude, gemini, opencode, qwen'

fail() {
  status=$1
  shift
  printf 'docker-entrypoint: %s\n' "$*" >&2
  exit "$status"
}

# --- what is asked for --------------------------------------------------------------------------

[ $# -gt 0 ] || fail 64 "the first argument must be one of $known_clis"
cli=$1
shift
case $cli in
  codex | claude | gemini | opencode | qwen) ;;
  *) fail 127 "there is no CLI '$cli' here, only $known_clis" ;;
esac
command -v "$cli" >/dev/null || fail 127 "$cli is not installed: it is not on the PATH"

# Every argument goes once from the front to the back, except the model's.
named_model=
options=yes
left=$#
while [ "$left" -gt 0 ]; do
  argument=$1
  shift
  left=$((left - 1))
  case $options$argument in
    yes--model=*)
      named_model=${argument#--model=}
      continue
      ;;
    yes--model | yes-m)
      [ "$left" -gt 0 ] || fail 64 "$argument must be followed by the name of a model"
      named_model=$1
      shift
      left=$((left - 1))
      continue
      ;;
    yes--) options=no ;;
  esac
  set -- "$@" "$argument"
done
headless=no
[ $# -gt 0 ] || headless=yes

[ "$named_model" != auto ] || named_model=
[ "${LITELLM_MODEL:-}" != auto ] || LITELLM_MODEL=
model=${named_model:-${LITELLM_MODEL:-}}
[ "$cli" != opencode ] || model=${LITELLM_MODEL:-$named_model}

base=${LITELLM_BASE_URL:-}
while :; do
  case $base in
    */) base=${base%/} ;;
    */v1) base=${base%/v1} ;;
    *) break ;;
  esac
done

# Both go into settings files, where no part of them may mean anything.
case $model in
  -* | *[!][A-Za-z0-9._:/@+=,-]*)
    fail 64 "a model's name must be of letters, digits and . _ : / @ + = , [ ] - and not start with -"
    ;;
esac
case $base in
  *[!][A-Za-z0-9._:/@%~-]*) fail 78 "LITELLM_BASE_URL must be a plain URL, as http://litellm:4000" ;;
  '' | http://?* | https://?*) ;;
  *) fail 78 "LITELLM_BASE_URL must start with http:// or https://" ;;
esac
case $* in
  --version | -v | -V | --help | -h) ;; # answered without a proxy
  *)
    [ -n "$base" ] ||
      fail 78 "LITELLM_BASE_URL is not set: it must be the proxy's URL, as http://litellm:4000"
    [ "$cli$model" != opencode ] ||
      fail 78 "opencode has no model of its own: name one in LITELLM_MODEL or with --model"
    ;;
esac

# --- a folder of the run's own ------------------------------------------------------------------

if [ -n "${CODEX_SERVE_RUN_DIR:-}" ]; then
  run_dir=$CODEX_SERVE_RUN_DIR
else
  run_dir=$(mktemp -d "${TMPDIR:-/tmp}/codex-cli.XXXXXXXX") ||
    fail 73 "no folder can be made below ${TMPDIR:-/tmp}: TMPDIR must name one that is writable"
fi
case $run_dir in
  /*) ;;
  *) fail 73 "the run's folder must be an absolute path, not '$run_dir'" ;;
esac
# The first mkdir makes the folder, the second fails where another run has been.
{ mkdir -p "$run_dir" && mkdir "$run_dir/home" "$run_dir/work" "$run_dir/tmp"; } ||
  fail 73 "the run's folder $run_dir must be one that can be made and that no other run used"

# Settings are found through HOME once nothing points elsewhere; the work folder is empty, so
# that a prompt has no file there to name.
export HOME="$run_dir/home" TMPDIR="$run_dir/tmp"
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_CACHE_HOME XDG_STATE_HOME XDG_RUNTIME_DIR
unset CODEX_HOME CLAUDE_CONFIG_DIR GEMINI_CLI_HOME QWEN_HOME
unset OPENCODE_CONFIG OPENCODE_CONFIG_DIR OPENCODE_CONFIG_CONTENT
# Another account of whoever started us must not take the place of the proxy.
unset ANTHROPIC_API_KEY CLAUDE_CODE_OAUTH_TOKEN CLAUDE_CODE_USE_BEDROCK CLAUDE_CODE_USE_VERTEX
unset GOOGLE_API_KEY GOOGLE_GENAI_USE_VERTEXAI GOOGLE_GENAI_USE_GCA
cd "$run_dir/work"

# A proxy without keys takes any, but every CLI insists on having one.
export LITELLM_API_KEY="${LITELLM_API_KEY:-none}"

# --- the prompt ---------------------------------------------------------------------------------

# It is read to its end first: gemini fails when stdin stays silent for half a second after its
# start. claude and qwen take a prompt that starts with / for one of their own commands, which a
# newline in front prevents; an empty prompt stays empty, as the CLIs have an error for that. The
# copy loses its name before the CLI starts, so no prompt stays behind in the folder.
if [ "$headless" = yes ]; then
  prompt=$run_dir/prompt
  case $cli in
    claude | qwen) printf '\n' >"$prompt" ;;
    *) : >"$prompt" ;;
  esac
  before=$(wc -c <"$prompt")
  cat >>"$prompt" || fail 73 "the prompt does not fit into $run_dir"
  size=$(wc -c <"$prompt")
  [ "$size" -gt "$before" ] || : >"$prompt"
  exec <"$prompt"
  rm "$prompt"
  # Somewhat above this gemini sends nothing, answers nothing and exits with 0.
  [ "$cli" != gemini ] || [ "$size" -le 4000000 ] ||
    fail 65 "gemini takes a prompt of at most 4,000,000 bytes, and this one is longer"
fi

# --- each CLI's settings and headless form ------------------------------------------------------

case $cli in
  codex)
    mkdir "$HOME/.codex"
    [ -z "$model" ] || printf 'model = "%s"\n' "$model" >"$HOME/.codex/config.toml"
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
base_url = "$base/v1"
env_key = "LITELLM_API_KEY"
wire_api = "responses"
request_max_retries = 2
stream_max_retries = 2
TOML
    if [ "$headless" = yes ]; then
      set -- exec --skip-git-repo-check --ephemeral --color never ${model:+--model "$model"} -
    fi
    ;;

  claude)
    export ANTHROPIC_BASE_URL="$base" ANTHROPIC_AUTH_TOKEN="$LITELLM_API_KEY"
    if [ -n "$model" ]; then
      export ANTHROPIC_MODEL="$model" ANTHROPIC_DEFAULT_HAIKU_MODEL="$model"
    fi
    export CLAUDE_CODE_DISABLE_FILE_MENTIONS=1 # else @/path in a prompt sends that file
    export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 CLAUDE_CODE_MAX_RETRIES=2
    export DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 DISABLE_ERROR_REPORTING=1
    [ "$headless" = no ] || set -- -p --no-session-persistence ${model:+--model "$model"}
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
    export GOOGLE_GEMINI_BASE_URL="$base" GEMINI_API_KEY="$LITELLM_API_KEY"
    export GEMINI_CLI_NO_RELAUNCH=true
    # Without a model gemini asks a second one which to take, for 90 s or more where the proxy
    # has no such model, and then takes pro.
    export GEMINI_MODEL="${model:-pro}"
    [ "$headless" = no ] || set -- ${model:+--model "$model"}
    ;;

  opencode)
    settings=$HOME/.config/opencode
    # The folder and the lock file keep opencode from running an npm install at every start.
    mkdir -p "$settings/node_modules"
    cat >"$settings/package-lock.json" <<'JSON'
{"lockfileVersion": 3, "packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
JSON
    cat >"$settings/opencode.json" <<JSON
{
  "model": "litellm/$model",
  "enabled_providers": ["litellm"],
  "provider": {
    "litellm": {
      "npm": "@ai-sdk/openai-compatible",
      "options": {"baseURL": "$base/v1", "apiKey": "{env:LITELLM_API_KEY}"},
      "models": {"$model": {}}
    }
  },
  "permission": {"edit": "deny", "bash": "deny", "webfetch": "deny", "external_directory": "deny"}
}
JSON
    export OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_SHARE=1
    export OPENCODE_DISABLE_LSP_DOWNLOAD=1 OPENCODE_DISABLE_DEFAULT_PLUGINS=1
    [ "$headless" = no ] || set -- run --model "litellm/$model"
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
    export OPENAI_BASE_URL="$base/v1" OPENAI_API_KEY="$LITELLM_API_KEY" QWEN_CODE_NO_RELAUNCH=true
    [ -z "$model" ] || export OPENAI_MODEL="$model"
    [ "$headless" = no ] || set -- ${model:+--model "$model"}
    ;;
esac

exec "$cli" "$@"
