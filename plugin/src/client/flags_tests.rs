use super::*;
use proptest::prelude::*;

const HELP: &str = "
Usage:  docker create [OPTIONS] IMAGE [COMMAND] [ARG...]

Options:
      --add-host list                    Add a custom host-to-IP mapping
                                         (host:ip)
  -a, --attach list                      Attach to STDIN
      --disable-content-trust            Skip image verification (default
                                         true)
  -e, --env list                         Set environment variables
      --gpus gpu-request                 GPU devices
      --help                             Print usage
      --init
                                         --not-a-flag Run an init
  -i, --interactive                      Keep STDIN open
  -p, --publish list                     Publish
      --rm                               Remove
  -t, --tty                              TTY
      --health-start-interval duration
  -v, --volume list                      Bind
";

fn table() -> FlagTable {
    FlagTable::from_help(HELP).for_run()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The names and values of the flags, and the operands.
fn shape(text: &str) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let split = table().split(&words(text)).unwrap();
    (split.flags.into_iter().map(|f| (f.name, f.value)).collect(), split.operands)
}

fn flag(name: &str, value: Option<&str>) -> (String, Option<String>) {
    (name.to_owned(), value.map(str::to_owned))
}

#[test]
fn help_tells_names_letters_and_values() {
    let table = FlagTable::from_help(HELP);
    for valued in
        ["add-host", "attach", "env", "gpus", "publish", "volume", "health-start-interval"]
    {
        assert_eq!(table.takes_value(valued), Some(true), "{valued}");
    }
    for switch in ["disable-content-trust", "init", "interactive", "rm", "tty", "help"] {
        assert_eq!(table.takes_value(switch), Some(false), "{switch}");
    }
    for none in ["not-a-flag", "default", "detach", ""] {
        assert_eq!(table.takes_value(none), None, "{none}");
    }
    assert_eq!(table.letters.get(&'e').map(String::as_str), Some("env"));
}

#[test]
fn words_are_read_as_docker_reads_them() {
    assert_eq!(
        shape("-it --rm -e A=1 -eB=2 --env=C --env D img --gpus 2 -it"),
        (
            vec![
                flag("interactive", None),
                flag("tty", None),
                flag("rm", None),
                flag("env", Some("A=1")),
                flag("env", Some("B=2")),
                flag("env", Some("C")),
                flag("env", Some("D")),
            ],
            words("img --gpus 2 -it"),
        )
    );
    assert_eq!(
        shape("-itd -p8080:80 --rm=false -i=false img"),
        (
            vec![
                flag("interactive", None),
                flag("tty", None),
                flag("detach", None),
                flag("publish", Some("8080:80")),
                flag("rm", Some("false")),
                flag("interactive", Some("false")),
            ],
            words("img"),
        )
    );
    // A value may look like a flag, and a letter's value may follow a cluster.
    assert_eq!(shape("--env --rm img"), (vec![flag("env", Some("--rm"))], words("img")));
    assert_eq!(
        shape("-ite A=1 img"),
        (
            vec![flag("interactive", None), flag("tty", None), flag("env", Some("A=1"))],
            words("img")
        )
    );
    // Two dashes end the flags; one dash alone is an operand.
    assert_eq!(shape("-i -- --rm x"), (vec![flag("interactive", None)], words("--rm x")));
    assert!(table().split(&words("-- x")).unwrap().dashes);
    assert_eq!(shape("- x"), (vec![], words("- x")));
    assert_eq!(shape(""), (vec![], vec![]));
}

#[test]
fn what_docker_refuses_is_refused_in_its_words() {
    let refused = |text| table().split(&words(text)).unwrap_err().to_string();
    assert_eq!(refused("--nope img"), "unknown flag: --nope");
    assert_eq!(refused("--nope=1 img"), "unknown flag: --nope");
    assert_eq!(refused("-iz img"), "unknown shorthand flag: 'z' in -iz");
    assert_eq!(refused("--env"), "flag needs an argument: --env");
    assert_eq!(refused("-ie"), "flag needs an argument: 'e' in -ie");
    assert_eq!(refused("--=x"), "bad flag syntax: --=x");
    assert_eq!(refused("---x"), "bad flag syntax: ---x");
}

/// Goes through every flag of the Docker CLI that is installed, in both spellings, with and
/// without a value.
#[test]
fn every_flag_of_the_installed_docker_is_taken_apart() {
    let Ok(help) = crate::client::dockercli::DockerCli::found("unix:///nowhere").help("create")
    else {
        assert!(
            std::env::var_os("GPUCTL_TEST_NEEDS_DOCKER").is_none(),
            "no docker CLI on PATH, and the environment says there must be one"
        );
        return;
    };
    let table = FlagTable::from_help(&help).for_run();
    let all: Vec<_> = table.all().collect();
    assert!(all.len() > 80, "only {} flags in:\n{help}", all.len());
    // Known kinds, so that a change of the help's layout is seen.
    for valued in
        ["volume", "env", "publish", "name", "network", "mount", "gpus", "cidfile", "ulimit"]
    {
        assert_eq!(table.takes_value(valued), Some(true), "{valued}");
    }
    for switch in ["rm", "tty", "interactive", "privileged", "init", "read-only", "no-healthcheck"]
    {
        assert_eq!(table.takes_value(switch), Some(false), "{switch}");
    }
    for (name, letter, valued) in all {
        let mut ways: Vec<Vec<String>> = Vec::new();
        if valued {
            ways.push(vec![format!("--{name}"), "val".into()]);
            ways.push(vec![format!("--{name}=val")]);
        } else {
            ways.push(vec![format!("--{name}")]);
            ways.push(vec![format!("--{name}=false")]);
        }
        if let Some(c) = letter {
            match valued {
                true => {
                    ways.extend([vec![format!("-{c}"), "val".into()], vec![format!("-{c}val")]])
                }
                false => ways.extend([vec![format!("-{c}")], vec![format!("-{c}=false")]]),
            }
        }
        for way in ways {
            let mut line = way.clone();
            line.extend(words("img --gpus 2"));
            let split = table.split(&line).unwrap_or_else(|e| panic!("{way:?}: {e}"));
            assert_eq!(split.operands, words("img --gpus 2"), "{way:?}");
            assert_eq!(split.flags.len(), 1, "{way:?}");
            assert_eq!(split.flags[0].name, name, "{way:?}");
            assert_eq!(split.flags[0].words, way);
            if valued {
                assert_eq!(split.flags[0].value.as_deref(), Some("val"), "{way:?}");
            }
        }
    }
}

/// One flag as built: its name, value and the words it was written with.
fn built() -> impl Strategy<Value = (String, Option<String>, Vec<String>)> {
    let value = "[-a-z=:/, ]{0,8}";
    let valued = prop::sample::select(vec![("env", 'e'), ("publish", 'p'), ("volume", 'v')]);
    let long = prop::sample::select(vec!["env", "add-host", "gpus", "name"]);
    let switch = prop::sample::select(vec![("interactive", 'i'), ("tty", 't'), ("detach", 'd')]);
    let long_switch = prop::sample::select(vec!["rm", "init", "sig-proxy", "interactive"]);
    let yes = prop::sample::select(vec!["true", "false", "0"]);
    prop_oneof![
        (long.clone(), value)
            .prop_map(|(n, v)| { (n.to_owned(), Some(v.clone()), vec![format!("--{n}"), v]) }),
        (long, value).prop_map(|(n, v)| (
            n.to_owned(),
            Some(v.clone()),
            vec![format!("--{n}={v}")]
        )),
        (valued.clone(), value)
            .prop_map(|((n, c), v)| { (n.to_owned(), Some(v.clone()), vec![format!("-{c}"), v]) }),
        (valued, "[a-z0-9][a-z=]{0,6}")
            .prop_map(|((n, c), v)| { (n.to_owned(), Some(v.clone()), vec![format!("-{c}{v}")]) }),
        switch.prop_map(|(n, c)| (n.to_owned(), None, vec![format!("-{c}")])),
        long_switch.clone().prop_map(|n| (n.to_owned(), None, vec![format!("--{n}")])),
        (long_switch, yes)
            .prop_map(|(n, v)| { (n.to_owned(), Some(v.to_owned()), vec![format!("--{n}={v}")]) }),
    ]
}

proptest! {
    #[test]
    fn a_line_that_was_built_comes_apart_into_what_it_was_built_of(
        flags in prop::collection::vec(built(), 0..8),
        operands in prop::collection::vec("[a-z][-a-z=]{0,6}|--gpus|-it", 0..4),
        image in "[a-z]{1,6}",
        dashes: bool,
    ) {
        let mut table = table();
        table.add("name", None, true);
        let mut line: Vec<String> = flags.iter().flat_map(|f| f.2.clone()).collect();
        let mut expected = vec![image.clone()];
        expected.extend(operands.clone());
        if dashes {
            line.push("--".into());
        }
        line.extend(expected.clone());
        let split = table.split(&line).unwrap();
        prop_assert_eq!(split.operands, expected);
        prop_assert_eq!(split.dashes, dashes);
        let got: Vec<_> = split.flags.into_iter().map(|f| (f.name, f.value, f.words)).collect();
        prop_assert_eq!(got, flags);
    }

    #[test]
    fn no_line_makes_it_lose_or_make_up_a_word(line in prop::collection::vec("[-=a-z]{0,5}", 0..8)) {
        if let Ok(split) = table().split(&line) {
            let operands = split.operands.len();
            prop_assert!(operands <= line.len());
            prop_assert_eq!(&split.operands[..], &line[line.len() - operands..]);
        }
    }
}
