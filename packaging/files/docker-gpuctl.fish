# docker gpuctl for a completion of docker that knows no plugins; one that does takes this one's place.
function __docker_gpuctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l at (contains -i -- gpuctl $words)
    or return
    set -l rest $words[(math $at + 1)..-1]
    /usr/libexec/docker/cli-plugins/docker-gpuctl __complete gpuctl $rest 2>/dev/null | string match -rv '^:[0-9]+$'
end
complete -c docker -n __fish_use_subcommand -f -a gpuctl -d 'GPU containers: run, scale, stop, start'
complete -c docker -n '__fish_seen_subcommand_from gpuctl' -f -a '(__docker_gpuctl_complete)'
