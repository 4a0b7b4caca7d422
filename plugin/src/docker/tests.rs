//! The facade against a scripted Engine on a real socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use super::*;

/// An Engine that gives these answers in turn after the ping, and what it was asked.
fn engine(
    answers: Vec<(&'static str, String)>,
) -> (tempfile::TempDir, Docker, mpsc::Receiver<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, asked) = mpsc::channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = vec![0; 65536];
            let mut got = 0;
            // The body comes with the head or right after it.
            while let Ok(n) = stream.read(&mut bytes[got..]) {
                got += n;
                let text = String::from_utf8_lossy(&bytes[..got]).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|l| {
                        l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                    })
                    .unwrap_or(0);
                if body.len() >= length {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&bytes[..got]).into_owned();
            let (status, body) = if text.starts_with("GET /_ping") {
                ("200 OK", "OK".to_owned())
            } else {
                let _ = tell.send(text);
                match answers.next() {
                    Some(answer) => answer,
                    None => {
                        // Says nothing, and keeps the connection.
                        std::thread::sleep(Duration::from_secs(5));
                        continue;
                    }
                }
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    let host = format!("unix://{}", path.display());
    (dir, Docker::connect(&host, Duration::from_secs(2)).unwrap(), asked)
}

#[test]
fn inspect_keeps_every_field_and_asks_in_the_engines_version() {
    let raw = r#"{"Id":"ab","Future":{"Field":[1,2]},"State":{"Running":true}}"#;
    let (_dir, docker, asked) = engine(vec![
        ("200 OK", raw.to_owned()),
        ("404 Not Found", r#"{"message":"No such container: x"}"#.to_owned()),
    ]);
    let shown = docker.inspect("ab").unwrap().unwrap();
    assert_eq!(shown.0, serde_json::from_str::<Value>(raw).unwrap());
    assert!(asked.recv().unwrap().starts_with("GET /v1.41/containers/ab/json HTTP/1.1\r\n"));
    assert_eq!(docker.inspect("x").unwrap(), None);
    // What cannot be a name is not asked for at all.
    assert_eq!(docker.inspect("../info").unwrap(), None);
}

#[test]
fn refusals_keep_the_engines_words() {
    let oci = "OCI runtime create failed: gpuctl: GPU 2 is held: unknown";
    let (_dir, docker, asked) = engine(vec![
        ("400 Bad Request", format!(r#"{{"message":"{oci}"}}"#)),
        ("409 Conflict", r#"{"message":"name taken"}"#.to_owned()),
        ("304 Not Modified", String::new()),
    ]);
    let error = docker.start("ab").unwrap_err();
    assert_eq!(error, DockerError::Refused { status: 400, message: oci.into() });
    assert_eq!(error.from_gpuctl(), Some("GPU 2 is held"));
    let to = DockerName::new("b-1").unwrap();
    assert_eq!(docker.rename("b-0", &to).unwrap_err(), DockerError::Conflict("name taken".into()));
    docker.stop("ab", Some(3)).unwrap();
    assert!(asked.recv().unwrap().starts_with("POST /v1.41/containers/ab/start"));
    assert!(asked.recv().unwrap().starts_with("POST /v1.41/containers/b-0/rename?name=b-1"));
    assert!(asked.recv().unwrap().starts_with("POST /v1.41/containers/ab/stop?t=3"));
}

#[test]
fn create_from_a_record_sends_it_and_connects_what_an_old_engine_needs() {
    let (_dir, docker, asked) = engine(vec![
        ("201 Created", r#"{"Id":"cd34","Warnings":[]}"#.to_owned()),
        ("200 OK", String::new()),
    ]);
    let recorded = serde_json::json!({
        "Config": {"Image": "busybox", "Odd": 7}, "HostConfig": {"NetworkMode": "a"},
        "NetworkSettings": {"Networks": {"a": {}, "b": {"Aliases": ["train"]}}},
    });
    let name = DockerName::new("train-1").unwrap();
    let id = docker.create_from(&name, &recorded, &Changes::default()).unwrap();
    assert_eq!(id.as_str(), "cd34");
    let create = asked.recv().unwrap();
    assert!(create.starts_with("POST /v1.41/containers/create?name=train-1 "), "{create}");
    assert!(create.contains("\"Odd\":7"), "{create}");
    let connect = asked.recv().unwrap();
    assert!(connect.starts_with("POST /v1.41/networks/b/connect "), "{connect}");
}

#[test]
fn an_engine_that_says_nothing_or_is_not_there_costs_no_more_than_the_limit() {
    let (_dir, docker, _asked) = engine(vec![]);
    let begun = std::time::Instant::now();
    assert!(!docker.wait_not_running("ab", Duration::from_millis(200)).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(2));

    let nobody = Docker::connect("unix:///nowhere/d.sock", Duration::from_secs(2)).unwrap();
    match nobody.list(true).unwrap_err() {
        DockerError::Unreachable(host, why) => {
            assert_eq!(host, "unix:///nowhere/d.sock");
            assert_eq!(why, "it is not there");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn several_threads_share_one_facade() {
    let answers = (0..8).map(|_| ("200 OK", "[]".to_owned())).collect();
    let (_dir, docker, _asked) = engine(answers);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(docker.list(true).unwrap(), []));
        }
    });
}
