//! The transport over a real socket, with an engine that only pretends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use gpuctl_ledger::model::{ContainerId, ContainerName, DockerName, GpuRequest};

use super::client;
use super::protocol::PROTOCOL;
use super::reach::{Dialling, Service as Reach};
use super::server::{Limits, Perform, serve};
use crate::engine::api::{
    Amount, Answer, AskError, CreateAsk, CreateRequest, Doing, Event, Failure, Front, Progress,
    Request, StartMode,
};

struct Service {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// What the engine saw.
    seen: Receiver<String>,
}

impl Service {
    fn at(&self) -> Reach {
        Reach::Socket(self.socket.clone())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn limits() -> Limits {
    Limits {
        connections: 8,
        of_a_user: 4,
        // Nobody, so that the tests are bounded as root, too.
        root: u32::MAX,
        request: Duration::from_millis(300),
        write: Duration::from_millis(300),
        create: Duration::from_secs(5),
        silence: Duration::from_millis(600),
        attach: Duration::from_secs(5),
    }
}

fn service() -> Service {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, seen) = channel();
    let perform: Arc<Perform> = Arc::new(move |request, front: &mut dyn Front| {
        let outcome = pretend(&request, front);
        let _ = tell.send(match &outcome {
            Ok(_) => "done".to_owned(),
            Err(f) => f.message.clone(),
        });
        outcome
    });
    let flag = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        serve(&listener, &perform, limits(), || flag.load(Ordering::SeqCst)).unwrap();
    });
    Service { _dir: dir, socket, stop, thread: Some(thread), seen }
}

/// Creates, attaches, waits for the end; a stop waits half a second; resolve floods with events, gpus tells
/// how far it is, more often than any client reads.
fn pretend(request: &Request, front: &mut dyn Front) -> Result<Answer, Failure> {
    let undone = |e: AskError| Failure::new(format!("undone: {e}"));
    match request {
        Request::Create(create) => {
            front.event(Event::Note { text: "claiming".into() });
            let name = ContainerName::new("train").unwrap();
            let docker_name = DockerName::new("train-0").unwrap();
            let ask = CreateAsk {
                docker_name: docker_name.clone(),
                runtime: "gpuctl".into(),
                name: name.clone(),
                labels: vec![],
                publish: vec![],
            };
            let id = front.create(&ask).map_err(undone)?;
            if create.start == StartMode::Attached {
                front.attach(&docker_name).map_err(undone)?;
                while front.attach_ended().map_err(undone)?.is_none() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(Answer::Created { id, name, docker_name })
        }
        Request::Stop { names, .. } => {
            std::thread::sleep(Duration::from_millis(500));
            Ok(Answer::Each { done: names.clone(), failed: vec![] })
        }
        Request::Resolve { .. } => {
            let text = "x".repeat(10_000);
            for _ in 0..1000 {
                front.event(Event::Note { text: text.clone() });
            }
            Err(Failure::new("flooded"))
        }
        Request::Gpus => {
            for files in 0..20_000 {
                let done = Amount { files, bytes: 0 };
                let of = "train-0".to_owned();
                front.event(Event::Progress(Progress {
                    doing: Doing::Copying,
                    of,
                    done,
                    all: None,
                }));
            }
            Ok(Answer::Gpus(vec![]))
        }
        Request::History { name } => {
            Err(Failure::new(format!("{name} asked by {}", front.user().unwrap_or_default()))
                .hint("h")
                .details(vec!["d".into()]))
        }
        _ => Ok(Answer::Ps(vec![])),
    }
}

/// A client's side, scripted.
#[derive(Default)]
struct Script {
    events: Vec<Event>,
    refuse: bool,
    leave: bool,
    attached: Option<Instant>,
}

impl Front for Script {
    fn event(&mut self, event: Event) {
        self.events.push(event);
    }
    fn create(&mut self, ask: &CreateAsk) -> Result<ContainerId, AskError> {
        assert_eq!(ask.docker_name.as_str(), "train-0");
        match (self.refuse, self.leave) {
            (true, _) => Err(AskError::Refused { code: 125 }),
            (_, true) => Err(AskError::Gone),
            _ => Ok(ContainerId::new("ab12").unwrap()),
        }
    }
    fn attach(&mut self, _: &DockerName) -> Result<(), AskError> {
        self.attached = Some(Instant::now());
        Ok(())
    }
    fn attach_ended(&mut self) -> Result<Option<u8>, AskError> {
        let ran = self.attached.map(|a| a.elapsed());
        Ok(ran.filter(|r| *r > Duration::from_millis(50)).map(|_| 7))
    }
    fn user(&self) -> Option<String> {
        None
    }
}

fn create(start: StartMode) -> Request {
    Request::Create(CreateRequest {
        name: None,
        gpus: GpuRequest::Count(1),
        start,
        auto_remove: false,
        from: None,
        ports: vec![],
    })
}

fn ask(service: &Service, request: Request, front: &mut Script) -> Result<Answer, Failure> {
    client::perform(&service.at(), request, front, &|| false)
}

fn works(service: &Service) {
    let answer = ask(service, Request::Ps { all: true }, &mut Script::default());
    assert_eq!(answer, Ok(Answer::Ps(vec![])));
}

#[test]
fn a_run_is_created_and_attached_by_the_client() {
    let service = service();
    let mut front = Script::default();
    let answer = ask(&service, create(StartMode::Attached), &mut front).unwrap();
    assert!(matches!(answer, Answer::Created { id, .. } if id.as_str() == "ab12"));
    assert_eq!(front.events, [Event::Note { text: "claiming".into() }]);
    assert!(front.attached.is_some());
}

#[test]
fn failures_arrive_whole_and_the_server_knows_who_asks() {
    let service = service();
    let failure =
        ask(&service, Request::History { name: "x".into() }, &mut Script::default()).unwrap_err();
    let me = crate::client::front::user_name(nix::unistd::getuid());
    assert_eq!(failure.message, format!("x asked by {me}"));
    assert_eq!((failure.hint.as_deref(), failure.details.len()), (Some("h"), 1));
}

#[test]
fn docker_refusing_and_a_user_giving_up_are_told_apart() {
    let service = service();
    let mut front = Script { refuse: true, ..Script::default() };
    let failure = ask(&service, create(StartMode::No), &mut front).unwrap_err();
    assert_eq!(failure.message, "undone: docker refused");
    assert_eq!(service.seen.recv().unwrap(), "undone: docker refused");
    let mut front = Script { leave: true, ..Script::default() };
    let failure = ask(&service, create(StartMode::No), &mut front).unwrap_err();
    assert_eq!((failure.message.as_str(), failure.code), ("undone: the client is gone", 130));
    assert_eq!(service.seen.recv().unwrap(), "undone: the client is gone");
    works(&service);
}

#[test]
fn after_an_interrupt_it_is_told_what_became_of_the_operation() {
    let service = service();
    let stop = || Request::Stop { names: vec!["x".into()], timeout: None, signal: None };
    let asked = |ending| {
        let begun = Instant::now();
        let interrupted = move || begun.elapsed() > Duration::from_millis(50);
        let mut front = Script::default();
        client::perform_ending(&service.at(), stop(), &mut front, &interrupted, ending)
    };
    let done = Answer::Each { done: vec!["x".into()], failed: vec![] };
    assert_eq!(asked(Duration::from_secs(10)), Ok(done));
    assert_eq!(service.seen.recv().unwrap(), "done");
    // But it is not waited for for ever.
    let failure = asked(Duration::from_millis(100)).unwrap_err();
    assert_eq!((failure.code, failure.hint.is_some()), (130, true), "{failure}");
    assert!(failure.message.contains("still at it"), "{failure}");
    // The operation itself went on to its end.
    assert_eq!(service.seen.recv().unwrap(), "done");
}

/// A raw connection that has sent a request which creates, and has read the question.
fn asked_to_create(service: &Service) -> UnixStream {
    let mut stream = UnixStream::connect(&service.socket).unwrap();
    let hello = serde_json::json!({"protocol": PROTOCOL, "request": create(StartMode::Attached)});
    writeln!(stream, "{hello}").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#""taken""#);
    assert!(lines.next().unwrap().unwrap().contains("claiming"));
    assert!(lines.next().unwrap().unwrap().starts_with(r#"{"ask":{"create":"#));
    stream
}

#[test]
fn a_client_that_dies_or_talks_nonsense_in_the_middle_is_gone_for_the_engine() {
    let service = service();
    let gone = "undone: the client is gone";
    drop(asked_to_create(&service));
    assert_eq!(service.seen.recv_timeout(Duration::from_secs(2)).unwrap(), gone);
    for nonsense in ["garbage\n", "{\"created\":\"../x\"}\n", "\"attached\"\n", "{}\n", "\u{0}\n"] {
        let mut stream = asked_to_create(&service);
        stream.write_all(nonsense.as_bytes()).unwrap();
        let seen = service.seen.recv_timeout(Duration::from_secs(2)).unwrap();
        assert_eq!(seen, gone, "{nonsense:?}");
    }
    // After the attach too.
    let mut stream = asked_to_create(&service);
    stream.write_all(b"{\"created\":\"ab\"}\n\"attached\"\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(stream);
    assert_eq!(service.seen.recv_timeout(Duration::from_secs(2)).unwrap(), gone);
    works(&service);
}

#[test]
fn a_client_that_never_answers_is_gone_and_one_that_is_busy_is_not() {
    let service = service();
    let begun = Instant::now();
    let silent = asked_to_create(&service);
    let seen = service.seen.recv_timeout(Duration::from_secs(4)).unwrap();
    assert_eq!(seen, "undone: the client is gone");
    assert!(begun.elapsed() < Duration::from_secs(3), "long before it may have created");
    drop(silent);
    // Twice as long, but it says that it is at it.
    let mut stream = asked_to_create(&service);
    client::saying_busy(&stream, Duration::from_millis(100), || {
        std::thread::sleep(Duration::from_millis(1200));
    });
    stream.write_all(b"{\"created\":\"ab\"}\n\"attached\"\n{\"attach_ended\":0}\n").unwrap();
    assert_eq!(service.seen.recv_timeout(Duration::from_secs(2)).unwrap(), "done");
    // But not for ever.
    let begun = Instant::now();
    let stream = asked_to_create(&service);
    client::saying_busy(&stream, Duration::from_millis(100), || {
        let seen = service.seen.recv_timeout(Duration::from_secs(8)).unwrap();
        assert_eq!(seen, "undone: the client is gone");
    });
    assert!(begun.elapsed() > Duration::from_secs(4));
}

/// It is stopped, or so busy that nobody takes what is asked.
#[test]
fn a_service_that_takes_no_request_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _nobody = UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    let asked =
        client::perform(&Reach::Socket(socket), Request::Gpus, &mut Script::default(), &|| false);
    let failure = asked.unwrap_err();
    assert!(failure.message.contains("has not taken the request within"), "{failure}");
    assert!(failure.hint.is_some() && begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_client_that_is_suspended_misses_progress_and_nothing_else() {
    let service = service();
    let mut stream = UnixStream::connect(&service.socket).unwrap();
    let hello = serde_json::json!({"protocol": PROTOCOL, "request": Request::Gpus});
    writeln!(stream, "{hello}").unwrap();
    // It does not read, and the operation ends all the same.
    assert_eq!(service.seen.recv_timeout(Duration::from_secs(10)).unwrap(), "done");
    let lines: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
    let (taken, rest) = lines.split_first().unwrap();
    assert_eq!(taken, r#""taken""#);
    let (last, told) = rest.split_last().unwrap();
    assert!(last.contains("\"ok\"") && last.contains("gpus"), "{last}");
    assert!(told.len() > 10 && told.len() < 20_000, "{}", told.len());
    assert!(told.iter().all(|line| line.contains("\"progress\"") && line.ends_with('}')));
}

#[test]
fn bad_requests_are_answered_and_the_service_goes_on() {
    let service = service();
    let long = vec![b'x'; (1 << 20) + 10];
    let cases: [(&[u8], &str); 7] = [
        (b"garbage\n", "not understood"),
        (b"{}\n", "not understood"),
        (b"[]\n", "not understood"),
        (b"{\"protocol\":8,\"request\":{\"op\":\"format_disk\"}}\n", "not understood"),
        (b"{\"protocol\":1,\"request\":{\"op\":\"gpus\"}}\n", "speaks protocol 8, the plugin 1"),
        (&long, "longer than 1 MiB"),
        (b"{\"protocol\":", "in time"),
    ];
    for (bytes, why) in cases {
        let mut stream = UnixStream::connect(&service.socket).unwrap();
        // The server may close before all of a long line is written.
        let _ = stream.write_all(bytes);
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        assert!(text.contains("failed") && text.contains(why), "{why}: {text}");
    }
    works(&service);
}

#[test]
fn random_bytes_never_end_the_service() {
    let service = service();
    let mut seed = 88_172_645_463_325_252_u64;
    for _ in 0..200 {
        let mut stream = UnixStream::connect(&service.socket).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..(seed % 300) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.push(u8::try_from(seed & 0xff).unwrap());
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let _ = stream.write_all(&bytes);
    }
    std::thread::sleep(Duration::from_millis(400));
    works(&service);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let service = service();
    let mut stream = UnixStream::connect(&service.socket).unwrap();
    let hello =
        serde_json::json!({"protocol": PROTOCOL, "request": {"op": "resolve", "name": "x"}});
    writeln!(stream, "{hello}").unwrap();
    works(&service);
    assert_eq!(service.seen.recv_timeout(Duration::from_secs(3)).unwrap(), "done");
    // Ten megabytes of events for somebody who does not read: one write limit, then it is over.
    assert_eq!(service.seen.recv_timeout(Duration::from_secs(3)).unwrap(), "flooded");
}

#[test]
fn too_many_connections_are_refused_and_places_come_back() {
    let service = service();
    let held: Vec<_> = (0..4).map(|_| UnixStream::connect(&service.socket).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(50));
    let refused = ask(&service, Request::Gpus, &mut Script::default()).unwrap_err();
    assert!(refused.message.contains("too many connections open: 4 of them"), "{refused}");
    drop(held);
    std::thread::sleep(Duration::from_millis(100));
    works(&service);
}

#[test]
fn a_stop_lets_operations_finish_and_takes_no_more() {
    let mut service = service();
    let socket = service.socket.clone();
    let asking = std::thread::spawn(move || {
        let stop = Request::Stop { names: vec!["x".into()], timeout: None, signal: None };
        client::perform(&Reach::Socket(socket), stop, &mut Script::default(), &|| false)
    });
    std::thread::sleep(Duration::from_millis(100));
    service.stop.store(true, Ordering::SeqCst);
    service.thread.take().unwrap().join().unwrap();
    let answer = asking.join().unwrap();
    assert_eq!(answer, Ok(Answer::Each { done: vec!["x".into()], failed: vec![] }));
}

#[test]
fn nobody_at_the_socket_is_said_with_what_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    let failure = client::perform(
        &Reach::Socket(path.clone()),
        Request::Gpus,
        &mut Script::default(),
        &|| false,
    )
    .unwrap_err();
    assert!(failure.message.contains("no gpuctl service answers"), "{failure}");
    assert!(failure.hint.unwrap().contains("systemctl start gpuctl.socket"));
}

/// Asks a service to which this shell script joins us.
fn ask_far(program: &'static str, script: &'static str) -> Failure {
    let far = Reach::Far(Box::new(move || {
        let mut command = std::process::Command::new(program);
        command.args(["-c", script]);
        let why = |host: &str, code, said: &str| Failure::new(format!("{host}: {code}: {said}"));
        Ok(Dialling { command, why, host: "far".into() })
    }));
    client::perform(&far, Request::Gpus, &mut Script::default(), &|| false).unwrap_err()
}

#[test]
fn of_another_host_it_is_told_why_there_is_no_answer() {
    let failure = ask_far("sh", "echo first >&2; echo last >&2; exit 3");
    assert_eq!(failure.message, "far: 3: first\nlast");
    let failure = ask_far("sh", "echo Welcome to far; cat >/dev/null");
    assert!(failure.message.contains("Welcome to far"), "{failure}");
    assert!(failure.hint.unwrap().contains("start-up file"));
    let failure = ask_far("sh", r#"echo '{"answered":1}'; cat >/dev/null"#);
    assert!(failure.message.contains("not understood"), "{failure}");
    let failure = ask_far("/nowhere/ssh", "");
    assert_eq!(failure.message, "/nowhere/ssh cannot be started, which is to reach far");
    // It says much: the last of it counts, and nothing waits for us.
    let failure = ask_far("sh", "yes | head -c 1000000 >&2; echo last >&2; exit 1");
    assert!(failure.message.len() < 10_000 && failure.message.ends_with("last"), "{failure}");
}

#[test]
fn a_far_service_that_says_nothing_is_left_in_time() {
    let far = Reach::Far(Box::new(|| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "cat >/dev/null; sleep 60"]);
        Ok(Dialling { command, why: |_, _, _| Failure::new("ended"), host: "far".into() })
    }));
    let begun = Instant::now();
    let limit = Duration::from_millis(300);
    let failure =
        client::perform_within(&far, Request::Top, &mut Script::default(), limit).unwrap_err();
    assert!(failure.message.contains("no answer within"), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
