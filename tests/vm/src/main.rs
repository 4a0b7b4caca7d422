//! `gpuctl-vm`: runs a command in a booted Debian. In that, it is the agent.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gpuctl_sim::command::TIMED_OUT;
use gpuctl_sim::site::Programs;
use gpuctl_vm::machine::BESIDE;
use gpuctl_vm::{CgroupDriver, Machine, Missing, Product, Result, System, agent};

const USAGE: &str = "\
usage: gpuctl-vm make
       gpuctl-vm run [--put FILE:PATH]... [--get PATH:FILE]... [--limit SECONDS]
                     [--product PROGRAMS --profile FILE [--strict] [--cgroupfs]] -- COMMAND...
       gpuctl-vm matrix --column NAME --out FILE --programs FOLDER [--root FOLDER] [--rows a,b]
                        [--limit SECONDS]
       gpuctl-vm agent PORT

run boots the Debian (made first where it is not there), puts files of this machine into it, runs the
command as root, brings files back, and powers off. Exits as the command does; 124 past its limit
(600 s), 125 where there can be no machine here: that prints skipped: REASON.
matrix runs a column of gpuctl-matrix there, and adds its lines to FILE. --root is the Debian of the
column's Engine, where that is another than the machine's; gpuctl-matrix root makes it.
--product installs docker-gpuctl there from a folder of built programs, with simulated GPUs.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["agent", port] => agent::serve(Path::new(port)).map(|()| 0),
        ["make"] => make(),
        ["run", rest @ ..] => run(rest),
        ["matrix", rest @ ..] => column(rest),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            say(&format!("gpuctl-vm: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The code where there can be no machine.
const SKIPPED: u8 = 125;

/// This program, which is the agent too.
fn me() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))
}

fn make() -> Result<u8> {
    let started = Instant::now();
    match System::get(&me()?) {
        Ok(system) => {
            say(&format!(
                "{} is ready ({} s)",
                system.folder().display(),
                started.elapsed().as_secs()
            ));
            Ok(0)
        }
        Err(why) => missing(why),
    }
}

fn missing(why: Missing) -> Result<u8> {
    match why {
        Missing::Here(why) => {
            say(&format!("skipped: the booted Debian: {why}"));
            Ok(SKIPPED)
        }
        Missing::Broken(why) => Err(why),
    }
}

/// What `run` is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked<'a> {
    put: Vec<(PathBuf, &'a str)>,
    get: Vec<(&'a str, PathBuf)>,
    limit: Option<u64>,
    product: Option<PathBuf>,
    profile: Option<PathBuf>,
    strict: bool,
    cgroupfs: bool,
    command: Vec<&'a str>,
}

fn asked<'a>(mut words: &[&'a str]) -> Option<Asked<'a>> {
    let mut asked = Asked::default();
    loop {
        match words {
            ["--", command @ ..] if !command.is_empty() => {
                asked.command = command.to_vec();
                return Some(asked);
            }
            ["--strict", rest @ ..] => {
                asked.strict = true;
                words = rest;
            }
            ["--cgroupfs", rest @ ..] => {
                asked.cgroupfs = true;
                words = rest;
            }
            [flag, value, rest @ ..] => {
                match *flag {
                    "--put" => asked.put.push(value.split_once(':').map(|(a, b)| (a.into(), b))?),
                    "--get" => asked.get.push(value.split_once(':').map(|(a, b)| (a, b.into()))?),
                    "--limit" => asked.limit = Some(value.parse().ok()?),
                    "--product" => asked.product = Some(value.into()),
                    "--profile" => asked.profile = Some(value.into()),
                    _ => return None,
                }
                words = rest;
            }
            _ => return None,
        }
    }
}

fn run(words: &[&str]) -> Result<u8> {
    let Some(asked) = asked(words) else {
        say(USAGE);
        return Ok(2);
    };
    act(&asked)
}

fn act(asked: &Asked<'_>) -> Result<u8> {
    let system = match System::get(&me()?) {
        Ok(system) => system,
        Err(why) => return missing(why),
    };
    let mut machine = Machine::boot(&system, &me()?)?;
    machine.settle()?;
    if let (Some(folder), Some(profile)) = (&asked.product, &asked.profile) {
        let programs = Programs {
            plugin: folder.join("docker-gpuctl"),
            hook: folder.join("gpuctl-hook"),
            nvml: folder.join("libfake_nvml.so"),
        };
        let driver = if asked.cgroupfs { CgroupDriver::Cgroupfs } else { CgroupDriver::Systemd };
        let (profile, config) = (profile.clone(), String::new());
        Product { programs, profile, driver, strict: asked.strict, config }
            .install(&mut machine)?;
    }
    let put: Vec<(&Path, &str)> =
        asked.put.iter().map(|(from, to)| (from.as_path(), *to)).collect();
    machine.put(&put)?;
    let limit = Duration::from_secs(asked.limit.unwrap_or(600));
    let got = machine.run(&asked.command, &[], limit, &mut |is_err, piece| {
        let _ = if is_err {
            std::io::stderr().write_all(piece)
        } else {
            std::io::stdout().write_all(piece)
        };
    })?;
    for (path, file) in &asked.get {
        let content = machine.get(path)?;
        std::fs::write(file, content)
            .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    machine.power_off()?;
    Ok(u8::try_from(got.code).unwrap_or(1))
}

/// Where the column's programs and its lines are in the machine.
const PROGRAMS: &str = "/root/programs";
const LINES: &str = "/root/column.jsonl";
/// Where the harness finds other Debians there.
const ROOTS: &str = "/root/roots";
/// How long a column may take there, unless it is said.
const COLUMN: u64 = 7200;
/// Runs it there. A node of the matrix has an Engine of its own: the machine's would only cost time. Each
/// line comes out at once, so that what was found stays whatever happens then.
const COLUMN_THERE: &str = r#"
lines=$1 programs=$2 column=$3 disk=$4 root=$5
shift 5
systemctl stop docker.socket docker containerd 2>/dev/null
if [ "$root" != - ]; then
    mkdir -p "$root"
    mount "$disk" "$root" || exit 1
    export GPUCTL_ROOTS=${root%/*}
fi
tail -n 0 -s 0.2 -f "$lines" 2>/dev/null &
tail=$!
"$programs/gpuctl-matrix" run --column "$column" --out "$lines" --programs "$programs" "$@"
code=$?
kill $tail
exit $code
"#;

/// Whole lines, of pieces: whatever happens to the machine or to this program, the file of results ends with
/// one.
#[derive(Default)]
struct Whole {
    begun: Vec<u8>,
    /// How many bytes of whole lines there were.
    given: usize,
}

impl Whole {
    fn lines(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        self.begun.extend_from_slice(piece);
        let end = self.begun.iter().rposition(|byte| *byte == b'\n')? + 1;
        let rest = self.begun.split_off(end);
        self.given += end;
        Some(std::mem::replace(&mut self.begun, rest))
    }
}

/// What `matrix` is told.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    column: &'a str,
    out: &'a Path,
    programs: &'a Path,
    root: Option<&'a Path>,
    rows: Option<&'a str>,
    limit: Duration,
}

fn wanted<'a>(words: &[&'a str]) -> Option<Wanted<'a>> {
    let (pairs, rest) = words.as_chunks::<2>();
    let known = ["--column", "--out", "--programs", "--root", "--rows", "--limit"];
    if !rest.is_empty() || !pairs.iter().all(|[flag, _]| known.contains(flag)) {
        return None;
    }
    let value = |flag: &str| pairs.iter().find(|p| p[0] == flag).map(|p| p[1]);
    Some(Wanted {
        column: value("--column")?,
        out: Path::new(value("--out")?),
        programs: Path::new(value("--programs")?),
        root: value("--root").map(Path::new),
        rows: value("--rows"),
        limit: Duration::from_secs(value("--limit").map_or(Some(COLUMN), |n| n.parse().ok())?),
    })
}

fn column(words: &[&str]) -> Result<u8> {
    let Some(wanted) = wanted(words) else {
        say(USAGE);
        return Ok(2);
    };
    let out = wanted.out;
    let mut file = OpenOptions::new().create(true).append(true).open(out);
    let file = file.as_mut().map_err(|e| format!("cannot write {}: {e}", out.display()))?;
    let system = match System::get(&me()?) {
        Ok(system) => system,
        Err(why) => return missing(why),
    };
    let mut machine = Machine::boot_lossy(&system, &me()?, wanted.root)?;
    machine.settle()?;
    machine.put_programs(wanted.programs, PROGRAMS)?;
    // What was tried before is not tried again.
    machine.put(&[(out, LINES)])?;
    let before = machine.get(LINES)?.len();
    let root = wanted.root.and_then(Path::file_name).map(|suite| Path::new(ROOTS).join(suite));
    let root = root.map_or_else(|| "-".to_owned(), |root| root.display().to_string());
    let column = wanted.column;
    let mut words = vec!["sh", "-c", COLUMN_THERE, "sh", LINES, PROGRAMS, column, BESIDE, &root];
    if let Some(rows) = wanted.rows {
        words.extend(["--rows", rows]);
    }
    let mut whole = Whole::default();
    let got = machine.run(&words, &[], wanted.limit, &mut |is_err, piece| {
        if is_err {
            let _ = std::io::stderr().write_all(piece);
        } else if let Some(lines) = whole.lines(piece) {
            let _ = file.write_all(&lines);
        }
    })?;
    // What came too late to be heard.
    let all = machine.get(LINES)?;
    let late = all.get(before + whole.given..).unwrap_or_default();
    file.write_all(late).map_err(|e| format!("cannot write {}: {e}", out.display()))?;
    if got.code == TIMED_OUT {
        say(&format!(
            "gpuctl-vm: {column} was ended after {} s; what it found is kept",
            wanted.limit.as_secs()
        ));
    }
    machine.power_off()?;
    Ok(u8::try_from(got.code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_dashes() {
        let got = asked(&["--put", "a:/b", "--get", "/c:d", "--limit", "9", "--", "sh", "--put"])
            .unwrap();
        assert_eq!(got.put, [(PathBuf::from("a"), "/b")]);
        assert_eq!(got.get, [("/c", PathBuf::from("d"))]);
        assert_eq!((got.limit, got.command), (Some(9), vec!["sh", "--put"]));
        for wrong in
            [&["--put", "a", "--", "x"][..], &["--"], &["x"], &[], &["--limit", "y", "--", "x"]]
        {
            assert_eq!(asked(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_whole_lines_are_kept() {
        let mut whole = Whole::default();
        assert_eq!(whole.lines(b"{\"a\""), None);
        assert_eq!(whole.lines(b":1}\n{\"b\":2}\n{\"c").unwrap(), b"{\"a\":1}\n{\"b\":2}\n");
        assert_eq!((whole.lines(b"\":3}"), whole.given), (None, 16));
        assert_eq!(whole.lines(b"\n").unwrap(), b"{\"c\":3}\n");
        assert_eq!(whole.given, 24);
    }

    #[test]
    fn a_column_is_named_with_whole_flags() {
        let words = ["--column", "26.1/strict/v2-systemd", "--out", "o", "--programs", "p"];
        let got = wanted(&[&words[..], &["--root", "/r/trixie", "--limit", "9"]].concat()).unwrap();
        assert_eq!((got.column, got.root), (words[1], Some(Path::new("/r/trixie"))));
        assert_eq!((got.limit, got.rows), (Duration::from_secs(9), None));
        assert_eq!(wanted(&words).unwrap().limit, Duration::from_secs(COLUMN));
        let odd = [&words[..], &["--rows"]].concat();
        let unknown = [&words[..], &["--colour", "red"]].concat();
        let number = [&words[..], &["--limit", "soon"]].concat();
        for wrong in [&words[..4], &odd, &unknown, &number] {
            assert_eq!(wanted(wrong), None, "{wrong:?}");
        }
    }
}
