//! The words by which GPUs are asked for: in device requests, in CDI names, in the environment.

use gpuctl_ledger::model::{GpuRef, GpuRequest};

use super::AskError;

/// Longest part of a user's value that is shown back, in characters.
const SHOWN: usize = 80;

/// Most names in one container: more than any node has GPUs and MIG devices, and few enough to be
/// compared with one another.
const MOST_NAMES: usize = 4096;

/// A user's value as it may stand in a message: no control characters, no spaces (so that Docker
/// finds none of the phrases from which it makes exit codes), and not long.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:,=/+@".contains(c);
    text.chars().take(SHOWN).map(|c| if plain(c) { c } else { '?' }).collect()
}

/// Reads one name: what [`GpuRef`] reads, a CDI name (`nvidia.com/gpu=0`), and nvidia-ctk's names by
/// type and index (`gpu0`, `mig0:1`). `all` is everything; `none`, `void` and nothing are no GPU, but not
/// behind a CDI kind: NVIDIA's tool reads an address by its beginning, and takes `0:3b:0.0/x=none` for a
/// GPU. `shared` is a slot of a shared GPU.
pub(super) fn one(text: &str) -> Result<GpuRequest, AskError> {
    let (of_kind, name) = match text.split_once('=') {
        Some((kind, name)) if kind.contains('/') => (true, name),
        _ => (false, text),
    };
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "all" => return Ok(GpuRequest::All),
        "none" | "void" | "" if !of_kind => return Ok(GpuRequest::None),
        "shared" => return Ok(GpuRequest::shared()),
        _ => {}
    }
    let typed = lower.strip_prefix("mig").or_else(|| lower.strip_prefix("gpu"));
    let plain = match typed {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => name,
    };
    let one: GpuRef = plain.parse().map_err(|_| AskError::BadId(shown(text)))?;
    Ok(GpuRequest::Named(vec![one]))
}

/// Reads a list of names.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<GpuRequest, AskError> {
    let mut names = names.into_iter();
    let read = |so_far, name: &str| merge(so_far, one(name.trim())?);
    let list = names.by_ref().take(MOST_NAMES).try_fold(GpuRequest::None, read)?;
    match names.next() {
        Some(_) => Err(AskError::TooMany(MOST_NAMES)),
        None => Ok(list),
    }
}

/// Reads NVIDIA_VISIBLE_DEVICES as NVIDIA's runtime does: `void` anywhere is no GPU, else `all`
/// anywhere is every GPU, `none` is the driver without a GPU. Older versions hand a list on as it is to
/// their tool, which stops at an `all` and never comes to a `void` behind it: then it is every GPU.
pub(super) fn visible_devices(value: &str) -> Result<GpuRequest, AskError> {
    let names: Vec<&str> = value.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    let void = names.iter().position(|name| *name == "void");
    let all = names.iter().position(|name| name.eq_ignore_ascii_case("all"));
    match (all, void) {
        (Some(all), Some(void)) if all < void => Ok(GpuRequest::All),
        (_, Some(_)) => Ok(GpuRequest::None),
        (Some(_), None) => Ok(GpuRequest::All),
        (None, None) => list(names),
    }
}

/// A request of no more names than a node can have GPUs.
///
/// # Errors
/// [`AskError::TooMany`].
pub(super) fn bounded(request: GpuRequest) -> Result<GpuRequest, AskError> {
    match &request {
        GpuRequest::Named(list) if list.len() > MOST_NAMES => Err(AskError::TooMany(MOST_NAMES)),
        _ => Ok(request),
    }
}

/// Two requests of one container as one.
///
/// # Errors
/// [`AskError::Mixed`] for a count beside names, which no single request can say, [`AskError::Shared`]
/// for a slot beside anything; [`AskError::TooMany`].
pub(super) fn merge(a: GpuRequest, b: GpuRequest) -> Result<GpuRequest, AskError> {
    use GpuRequest as R;
    Ok(match (a, b) {
        (R::None, x) | (x, R::None) => x,
        (R::Matching(_), _) | (_, R::Matching(_)) => return Err(AskError::Shared),
        (R::All, _) | (_, R::All) => R::All,
        (R::Count(a), R::Count(b)) => R::Count(a.saturating_add(b)),
        (R::Named(mut list), R::Named(more)) => {
            for one in more {
                if !list.contains(&one) {
                    list.push(one);
                }
            }
            bounded(R::Named(list))?
        }
        (R::Count(n), R::Named(list)) | (R::Named(list), R::Count(n)) => {
            let names: Vec<String> = list.iter().map(ToString::to_string).collect();
            return Err(AskError::Mixed(n, shown(&names.join(","))));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(list: &[GpuRef]) -> GpuRequest {
        GpuRequest::Named(list.to_vec())
    }

    #[test]
    fn every_spelling_of_an_id_is_read() {
        use GpuRef::{Index, MigIndex, Pci, Uuid};
        assert_eq!(one("3").unwrap(), named(&[Index(3)]));
        assert_eq!(one("gPu-aB").unwrap(), named(&[Uuid("gPu-aB".into())]));
        assert_eq!(one("MIG-1f").unwrap(), named(&[Uuid("MIG-1f".into())]));
        assert_eq!(one("3b:00.0").unwrap(), named(&[Pci("3b:00.0".into())]));
        assert_eq!(one("0:1").unwrap(), named(&[MigIndex(0, 1)]));
        assert_eq!(one("nvidia.com/gpu=2").unwrap(), named(&[Index(2)]));
        assert_eq!(one("nvidia.com/gpu=gpu2").unwrap(), named(&[Index(2)]));
        assert_eq!(one("nvidia.com/gpu=mig2:0").unwrap(), named(&[MigIndex(2, 0)]));
        assert_eq!(one("nvidia.com/gpu=all").unwrap(), GpuRequest::All);
        assert_eq!(one("void").unwrap(), GpuRequest::None);
        for beginning in
            ["0:3b:0.0/x=none", "0:1/x=void", "0:1/x=", "0:1/none", "nvidia.com/gpu=none"]
        {
            assert!(one(beginning).is_err(), "{beginning}");
        }
        assert_eq!(one("shared").unwrap(), GpuRequest::shared());
        assert_eq!(one("GPU-ab/3").unwrap(), named(&[Uuid("GPU-ab/3".into())]));
    }

    #[test]
    fn what_is_no_id_is_named_without_what_could_mislead() {
        let said = |t: &str| one(t).unwrap_err().to_string();
        let long = said(&format!("x\u{1b}[2J permission denied{}", "y".repeat(200)));
        assert!(long.contains("x??2J?permission?denied"), "{long}");
        assert!(!long.contains(|c: char| c.is_control()) && long.len() < 200, "{long}");
        assert!(said("\u{202e}é").contains("??"));
    }

    #[test]
    fn the_environment_is_read_as_nvidia_reads_it() {
        let read = |t: &str| visible_devices(t).unwrap();
        assert_eq!(read("all"), GpuRequest::All);
        assert_eq!(read("0,all"), GpuRequest::All);
        assert_eq!(read("0,void"), GpuRequest::None);
        assert_eq!(read("void,all"), GpuRequest::None);
        assert_eq!(read("ALL,void"), GpuRequest::All, "older versions come to all first");
        assert_eq!(read("none"), GpuRequest::None);
        assert_eq!(read(" , "), GpuRequest::None);
        assert_eq!(read("1, GPU-ab,1"), named(&[GpuRef::Index(1), GpuRef::Uuid("GPU-ab".into())]));
        assert!(visible_devices("0,foo").is_err());
    }

    #[test]
    fn requests_add_up_but_a_count_and_names_do_not() {
        use GpuRequest::{All, Count, None};
        let one = || named(&[GpuRef::Index(1)]);
        assert_eq!(merge(None, Count(2)), Ok(Count(2)));
        assert_eq!(merge(Count(2), Count(u32::MAX)), Ok(Count(u32::MAX)));
        assert_eq!(merge(one(), All), Ok(All));
        assert_eq!(merge(one(), one()), Ok(one()));
        assert_eq!(merge(Count(2), one()), Err(AskError::Mixed(2, "1".into())));
        for other in [GpuRequest::shared(), one(), Count(1), All] {
            assert_eq!(merge(other, GpuRequest::shared()), Err(AskError::Shared));
        }
    }

    #[test]
    fn a_million_names_are_refused_before_they_are_compared_with_one_another() {
        let names: Vec<String> = (0..1_000_000).map(|n| n.to_string()).collect();
        let before = std::time::Instant::now();
        assert_eq!(visible_devices(&names.join(",")), Err(AskError::TooMany(MOST_NAMES)));
        let same = vec!["GPU-ab"; 1_000_000];
        assert_eq!(list(same), Err(AskError::TooMany(MOST_NAMES)));
        assert!(before.elapsed().as_secs() < 10, "{:?}", before.elapsed());
        let few: Vec<&str> = names.iter().take(MOST_NAMES).map(String::as_str).collect();
        assert!(matches!(list(few), Ok(GpuRequest::Named(l)) if l.len() == MOST_NAMES));
    }
}
