# docker gpuctl for a completion of docker that knows no plugins; one that does takes this one's place.

# The words after docker's own flags, a line each, with -- before them; and what those flags set, as env takes it.
function __docker_gpuctl_words
    set -l words (commandline -opc) (commandline -ct)
    set -e words[1]
    while set -q words[1]
        set -l flag (string split -m 1 = -- $words[1])
        switch $words[1]
            case -H -c -l --host --context --config --log-level --tlscacert --tlscert --tlskey
                set -e words[1]
                set flag $flag[1] $words[1]
            case '-*'
            case '*'
                break
        end
        switch $flag[1]
            case -H --host
                echo DOCKER_HOST=$flag[2]
            case -c --context
                printf '%s\n' -u DOCKER_HOST DOCKER_CONTEXT=$flag[2]
            case --config
                echo DOCKER_CONFIG=$flag[2]
        end
        set -e words[1]
    end
    printf '%s\n' -- $words
end
function __docker_gpuctl_is_meant
    set -l all (__docker_gpuctl_words)
    set -l words $all[(math (contains -i -- -- $all) + 1)..-1]
    test (count $words) -gt 1; and test "$words[1]" = gpuctl
end
function __docker_gpuctl_complete
    set -l all (__docker_gpuctl_words)
    set -l at (contains -i -- -- $all)
    set -l there
    test $at -gt 1; and set there $all[1..(math $at - 1)]
    # What is proposed for --flag= is its value alone.
    set -l flag (string match -r -- '^--[^=]*=' (commandline -ct))
    env $there /usr/libexec/docker/cli-plugins/docker-gpuctl __complete $all[(math $at + 1)..-1] 2>/dev/null |
        string match -rv '^:[0-9]+$' | string replace -r -- '^' "$flag"
end
complete -c docker -n __fish_use_subcommand -f -a gpuctl -d 'GPU containers: run, scale, stop, start'
complete -c docker -n __docker_gpuctl_is_meant -f -a '(__docker_gpuctl_complete)'
