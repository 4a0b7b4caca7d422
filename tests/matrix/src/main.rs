//! `gpuctl-matrix`: tries every way to a GPU on one column of the matrix, and writes the table.
//! Entered under a name of NVIDIA's toolkit, it stands for that.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use gpuctl_matrix::column::Column;
use gpuctl_matrix::{nvidia, results, rows, run, table, trial};

const USAGE: &str = "\
usage: gpuctl-matrix run --column NAME --out FILE [--rows a,b,...] [--programs DIR] [--hash HASH]
       gpuctl-matrix write --results FILE... --docs docs/matrix.md [--hash HASH]
       gpuctl-matrix root --column NAME
       gpuctl-matrix columns | rows | hash

root makes the Debian of a column's Engine below GPUCTL_ROOTS, with all that the column needs, and says where
it is: nothing for the machine's own. write keeps what a page of the same sources has besides. columns lists all in
the order in which they are to be tried.";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = PathBuf::from(arguments.next().unwrap_or_default());
    let arguments: Vec<String> = arguments.collect();
    let done = nvidia::entered(&program, &arguments).unwrap_or_else(|| act(&arguments));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("gpuctl-matrix: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A row that fails may do so by a panic of the harness; its text is told with the row, and once.
fn quiet() {
    std::panic::set_hook(Box::new(|_| {}));
}

fn act(arguments: &[String]) -> Result<(), String> {
    let Some((verb, rest)) = arguments.split_first() else { return Err(USAGE.into()) };
    let flags = Flags::read(rest)?;
    let hash = || flags.hash.clone().map_or_else(run::own_hash, Ok);
    let mut text = String::new();
    match verb.as_str() {
        "columns" => Column::by_need().iter().for_each(|c| text.push_str(&format!("{c}\n"))),
        "rows" => rows::all().for_each(|r| text.push_str(&format!("{}\t{}\n", r.id, r.what))),
        "root" => {
            let column = Column::parse(flags.column.as_deref().ok_or("root needs --column NAME")?)?;
            // Else it would be gone with this program.
            std::env::var_os("GPUCTL_ROOTS").ok_or("GPUCTL_ROOTS names no folder to keep it in")?;
            if let Some(debian) = trial::debian(column)? {
                text = format!("{}\n", debian.root().folder().display());
            }
        }
        "hash" => text = format!("{}\n", hash()?),
        "write" => {
            let docs = flags.docs.as_ref().ok_or("write needs --docs FILE")?;
            let hash = hash()?;
            // What was tried now counts more than what stands there.
            let page = std::fs::read_to_string(docs).unwrap_or_default();
            let mut lines = table::lines_of(&page, &hash)?;
            for file in &flags.results {
                lines.extend(results::read(file)?);
            }
            gpuctl_sim::files::write(docs, &table::page(&lines, &hash))?;
        }
        "run" => return run_column(&flags, arguments),
        _ => return Err(USAGE.into()),
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| e.to_string())
}

fn run_column(flags: &Flags, arguments: &[String]) -> Result<(), String> {
    const PROGRAMS: &str = "GPUCTL_PROGRAMS";
    if let Some(folder) = &flags.programs
        && std::env::var_os(PROGRAMS).as_deref() != Some(folder.as_os_str())
    {
        // The harness finds the programs by its environment: this starts anew with it.
        let me = std::env::current_exe().map_err(|e| e.to_string())?;
        return Err(Command::new(me).args(arguments).env(PROGRAMS, folder).exec().to_string());
    }
    let column = flags.column.as_deref().ok_or("run needs --column NAME")?;
    let out = flags.out.as_deref().ok_or("run needs --out FILE")?;
    let hash = flags.hash.clone().map_or_else(run::own_hash, Ok)?;
    let order = run::Order { column: Column::parse(column)?, rows: &flags.rows, out, hash: &hash };
    quiet();
    let failures = run::run(&order, &mut |text| say(text))?;
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {column} failed:\n{}", failures.len(), failures.join("\n")))
}

#[derive(Default)]
struct Flags {
    column: Option<String>,
    out: Option<PathBuf>,
    rows: Vec<String>,
    programs: Option<PathBuf>,
    results: Vec<PathBuf>,
    docs: Option<PathBuf>,
    hash: Option<String>,
}

impl Flags {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut rest = arguments.iter().peekable();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
            let path = || Path::new(value).to_owned();
            match flag.as_str() {
                "--column" => flags.column = Some(value.clone()),
                "--out" => flags.out = Some(path()),
                "--rows" => flags.rows = value.split(',').map(str::to_owned).collect(),
                "--programs" => flags.programs = Some(path()),
                "--docs" => flags.docs = Some(path()),
                "--hash" => flags.hash = Some(value.clone()),
                "--results" => {
                    flags.results.push(path());
                    while let Some(more) = rest.next_if(|w| !w.starts_with("--")) {
                        flags.results.push(more.into());
                    }
                }
                _ => return Err(format!("no flag is {flag:?}\n{USAGE}")),
            }
        }
        Ok(flags)
    }
}
