# To be sourced by the scripts of this folder, which set `out`, the folder for the runs, and may set `only`, the names of some runs.
robust=${ROBUST:-robust}  # or the words of another command, "python -m robust_cli"

run() {  # command folder settings...: a new run, or what is left of the one in that folder
  local command=$1 name=$2 folder=$out/$2; shift 2
  [[ -z ${only:-} || " $only " == *" $name "* ]] || return 0
  if [ -e "$folder/config.yaml" ]; then $robust "$command" resume="$folder"
  else $robust "$command" hydra.run.dir="$folder" "$@"; fi
}
