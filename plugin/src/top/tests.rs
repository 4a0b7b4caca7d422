//! Keys, order, columns, and what is drawn at several sizes; nothing here has a terminal.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use gpuctl_ledger::model::{ContainerName, GpuRequest, Timestamp, Unit};
use proptest::prelude::*;
use ratatui::backend::{CrosstermBackend, TestBackend};
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::draw::draw;
use super::rows::{Column, Sort, columns, shown, span};
use super::state::{Act, Effect, Mode, State};
use crate::engine::api::{Failure, GpuRow, OfWhom, TopProcess, TopRow, TopView};

const NOW: i64 = 1_700_000_000_000;

fn now() -> Timestamp {
    Timestamp::from_millis(NOW)
}

fn row(index: u32, holder: Option<(&str, bool)>) -> TopRow {
    TopRow {
        gpu: GpuRow {
            index,
            mig: None,
            slot: None,
            uuid: Unit::new(format!("GPU-0000000{index}-526e-9b3d-771c-e025d69da216")).unwrap(),
            model: "NVIDIA A100-SXM4-80GB".into(),
            memory_total: 80 << 30,
            memory_used: Some((u64::from(index) + 1) << 30),
            utilisation: Some(index * 10),
            holder: holder.map(|(name, _)| name.to_owned()),
            owner: holder.map(|_| "alice".into()),
            since: holder.map(|_| Timestamp::from_millis(NOW - i64::from(index + 1) * 60_000)),
            state: holder.map(|_| "active".into()),
            processes: vec![],
            health: "ok".into(),
            links: vec![],
        },
        managed: holder
            .filter(|(_, managed)| *managed)
            .map(|(name, _)| ContainerName::new(name.split('-').next().unwrap()).unwrap()),
        wants: holder.map(|_| GpuRequest::Count(2)),
        temperature: Some(30 + index),
        power: Some(60_000),
        power_limit: Some(400_000),
        processes: vec![],
    }
}

/// Eight GPUs: train has 0 and 1, a bare one has 2, the others are free.
fn view() -> TopView {
    let mut rows: Vec<TopRow> = (0..8)
        .map(|i| match i {
            0 | 1 => row(i, Some(("train-1", true))),
            2 => row(i, Some(("bare", false))),
            _ => row(i, None),
        })
        .collect();
    rows[0].processes = vec![TopProcess {
        pid: 4711,
        program: "python3".into(),
        memory: Some(1 << 30),
        of: OfWhom::Holder,
    }];
    rows[5].processes =
        vec![TopProcess { pid: 99, program: "miner".into(), memory: None, of: OfWhom::Stranger }];
    rows[5].gpu.health = "busy: process 99 (miner)".into();
    TopView { node: "node1".into(), at: now(), rows, silent: None }
}

fn state() -> State {
    let mut state = State::default();
    state.looked(Ok(view()));
    state
}

fn press(state: &mut State, keys: &str) -> Effect {
    let mut last = Effect::None;
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        last = state.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    last
}

fn control(state: &mut State, c: char) -> Effect {
    state.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
}

fn order(state: &State) -> Vec<u32> {
    state.rows().iter().map(|r| r.gpu.index).collect()
}

fn messages(state: &State) -> String {
    state.messages.iter().map(|m| m.text.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn q_and_control_c_leave_in_any_mode_but_q_is_a_letter_of_a_filter() {
    for before in ["", "/", "c", "s", "?"] {
        let mut state = state();
        press(&mut state, before);
        assert_eq!(control(&mut state, 'c'), Effect::Quit, "{before}");
    }
    assert_eq!(press(&mut state(), "q"), Effect::Quit);
    let mut state = state();
    assert_eq!(press(&mut state, "/q"), Effect::None);
    assert_eq!(state.filter, "q");
    // Escape and a key in one: as the two.
    let alt = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::ALT);
    assert_eq!(state.key(alt('/')), Effect::None);
    assert_eq!((&state.mode, state.filter.as_str()), (&Mode::Filter, ""));
    let mut asked = self::state();
    press(&mut asked, "s");
    assert_eq!(asked.key(alt('y')), Effect::None, "that is no yes");
    assert_eq!(control(&mut state, 'z'), Effect::Suspend);
    assert_eq!(control(&mut state, 'l'), Effect::Repaint);
    assert_eq!(state.mode, Mode::Filter);
}

#[test]
fn stop_is_done_after_y_and_after_nothing_else() {
    for answer in ["n", "\n", "\u{1b}", "q", "s", " "] {
        let mut state = state();
        press(&mut state, "s");
        assert!(
            matches!(&state.mode, Mode::Confirm { question, .. }
            if question == "Stop train-1 of alice, which holds GPUs 0,1?"),
            "{:?}",
            state.mode
        );
        assert_eq!(press(&mut state, answer), Effect::None, "{answer:?}");
        assert_eq!((&state.mode, state.acting.as_deref()), (&Mode::Normal, None));
        assert_eq!(messages(&state), "nothing was changed");
    }
    let mut state = state();
    let stop = Act::Stop { name: "train-1".into(), managed: true };
    assert_eq!(press(&mut state, "sy"), Effect::Act(stop));
    // What could not be read is not answered.
    let mut small = self::state();
    press(&mut small, "s");
    small.cramped = true;
    assert_eq!(press(&mut small, "y"), Effect::None);
    assert_eq!(messages(&small), "nothing was changed");
    // Another change waits for the end of it.
    assert_eq!(press(&mut state, "jjsy"), Effect::None);
    assert_eq!(messages(&state), "one change at a time: stopping train-1");
    state.acted(&Err(Failure::new("no").details(vec!["d".into()]).hint("h")));
    assert!(messages(&state).ends_with("no\nd\nhint: h"));
    let bare = Act::Stop { name: "bare".into(), managed: false };
    assert_eq!(press(&mut state, "sy"), Effect::Act(bare));
}

#[test]
fn scale_asks_how_many_and_then_whether() {
    let mut state = state();
    press(&mut state, "c");
    assert!(
        matches!(&state.mode, Mode::Scale { name, wants, .. } if name == "train" && wants == "2")
    );
    assert_eq!(press(&mut state, "31\u{8}\n"), Effect::None);
    assert!(
        matches!(&state.mode, Mode::Confirm { question, .. }
        if question == "Scale train from 2 to 3 GPUs? Its processes restart."),
        "{:?}",
        state.mode
    );
    let act = Act::Scale { name: "train".into(), gpus: GpuRequest::Count(3) };
    assert_eq!(press(&mut state, "y"), Effect::Act(act));
    // What is no number is told and may be mended.
    let mut state = self::state();
    press(&mut state, "cnope\n");
    assert!(
        matches!(&state.mode, Mode::Scale { typed, .. } if typed == "nope"),
        "{:?}",
        state.mode
    );
    assert!(messages(&state).starts_with("\"nope\": "), "{}", messages(&state));
    control(&mut state, 'u');
    press(&mut state, "0\n");
    assert!(
        matches!(&state.mode, Mode::Confirm { question, .. } if question.contains("from 2 to 0 GPUs?"))
    );
    let act = Act::Scale { name: "train".into(), gpus: GpuRequest::None };
    assert_eq!(press(&mut state, "y"), Effect::Act(act));
}

#[test]
fn what_cannot_be_done_is_said_at_once() {
    let mut state = state();
    press(&mut state, "jjc");
    assert!(messages(&state).contains("docker gpuctl adopt bare"), "{}", messages(&state));
    press(&mut state, "jsc");
    assert!(messages(&state).ends_with("nobody holds GPU 3\nnobody holds GPU 3"));
    assert_eq!(state.mode, Mode::Normal);
    assert_eq!(press(&mut State::default(), "scjkgGoOrp/x\n"), Effect::None, "before any look");
}

#[test]
fn the_choice_stays_on_its_gpu_when_the_order_changes() {
    let mut state = state();
    press(&mut state, "jjj");
    assert_eq!((state.place(), state.current().unwrap().gpu.index), (3, 3));
    press(&mut state, "o");
    assert_eq!((state.sort, order(&state)), (Sort::Util, vec![7, 6, 5, 4, 3, 2, 1, 0]));
    assert_eq!((state.place(), state.current().unwrap().gpu.index), (4, 3));
    press(&mut state, "r");
    assert_eq!(order(&state), [0, 1, 2, 3, 4, 5, 6, 7]);
    // It is gone from what is shown: the first is the chosen one.
    press(&mut state, "/train\n");
    assert_eq!((order(&state), state.current().unwrap().gpu.index), (vec![0, 1], 0));
    press(&mut state, "\u{1b}G");
    assert_eq!(state.current().unwrap().gpu.index, 7);
}

#[test]
fn rows_are_ordered_and_what_is_not_known_comes_last() {
    let mut view = view();
    view.rows[6].temperature = None;
    let by = |sort, reverse| {
        shown(&view, sort, reverse, "").iter().map(|r| r.gpu.index).collect::<Vec<_>>()
    };
    assert_eq!(by(Sort::Temp, true), [7, 5, 4, 3, 2, 1, 0, 6]);
    assert_eq!(by(Sort::Temp, false), [0, 1, 2, 3, 4, 5, 7, 6]);
    assert_eq!(by(Sort::Holder, false), [2, 0, 1, 3, 4, 5, 6, 7]);
    assert_eq!(by(Sort::Holder, true), [0, 1, 2, 3, 4, 5, 6, 7]);
    // The longest first.
    assert_eq!(by(Sort::For, true), [2, 1, 0, 3, 4, 5, 6, 7]);
    assert_eq!(by(Sort::Gpu, true), [7, 6, 5, 4, 3, 2, 1, 0]);
}

#[test]
fn a_filter_finds_holders_owners_programs_and_free_ones() {
    let view = view();
    let found = |words| {
        shown(&view, Sort::Gpu, false, words).iter().map(|r| r.gpu.index).collect::<Vec<_>>()
    };
    assert_eq!(found("TRAIN alice"), [0, 1]);
    assert_eq!(found("python"), [0]);
    assert_eq!(found("free"), [3, 4, 5, 6, 7]);
    assert_eq!(found("miner 99"), [5]);
    assert_eq!(found("nobody"), Vec::<u32>::new());
}

#[test]
fn columns_fit_and_the_least_wanted_go_first() {
    for width in 0..300_u16 {
        let some = columns(width);
        let taken: u16 = some.iter().map(|(_, w)| w + 1).sum();
        assert!(some.is_empty() || taken - 1 <= width, "{width}: {some:?}");
        assert!(width < 23 || !some.is_empty(), "{width}");
    }
    let at = |width| columns(width).into_iter().map(|(c, _)| c).collect::<Vec<_>>();
    assert!(!at(79).contains(&Column::Model));
    for wanted in [Column::Power, Column::Temp, Column::Owner, Column::For, Column::Health] {
        assert!(at(79).contains(&wanted), "{wanted:?}");
    }
    assert!(at(110).contains(&Column::Model));
    assert!(at(40).contains(&Column::Holder) && !at(40).contains(&Column::Owner));
}

#[test]
fn spans_are_short() {
    let at = |s: i64| span(Timestamp::from_millis(NOW - s * 1000), now());
    let all = [0, 59, 60, 3599, 3600, 172_799, 172_800, 8_639_999, 8_640_000].map(at);
    assert_eq!(all, ["0s", "59s", "1m", "59m", "1h", "47h", "2d", "99d", "14w"]);
}

fn drawn(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            let area = frame.area();
            draw(frame.buffer_mut(), area, state, now(), true);
        })
        .unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

#[test]
fn eighty_columns_show_all_that_was_asked_for() {
    let wanted = "\
gpuctl top  node1  3 of 8 held  by GPU ^
 GPU   UTIL MEMORY       POWER    TEMP HOLDER            OWNER     FOR  HEALTH
>0     0%   1/80GiB      60/400W  30C  train-1           alice     1m   ok
 1     10%  2/80GiB      60/400W  31C  train-1           alice     2m   ok
 2     20%  3/80GiB      60/400W  32C  bare              alice     3m   ok
 3     30%  4/80GiB      60/400W  33C  -                 -         -    ok
 4     40%  5/80GiB      60/400W  34C  -                 -         -    ok
 5     50%  6/80GiB      60/400W  35C  -                 -         -    busy: pr
 6     60%  7/80GiB      60/400W  36C  -                 -         -    ok
 7     70%  8/80GiB      60/400W  37C  -                 -         -    ok

 GPU   PID      MEMORY    OF                   PROGRAM
 0     4711     1024MiB   train-1              python3
 5     99       -         without a lease      miner



? help  q leave  / filter  <> order  s stop  c scale
";
    assert_eq!(drawn(&state(), 80, 18), wanted);
}

#[test]
fn small_and_large_screens_show_what_fits() {
    let mut state = state();
    press(&mut state, "G");
    let small = drawn(&state, 40, 10);
    assert!(small.contains(">7 ") && !small.contains("OWNER"), "{small}");
    assert!(small.contains("PID") && small.contains("4711"), "{small}");
    let wide = drawn(&state, 200, 50);
    assert!(wide.contains("NVIDIA A100-SXM4-80GB") && wide.contains("busy: process 99 (miner)"));
    assert!(drawn(&state, 20, 4).starts_with("too small: q leaves"));
    let help = drawn(
        &{
            let mut state = state.clone();
            press(&mut state, "?");
            state
        },
        80,
        24,
    );
    assert!(help.contains("stop the container that holds"), "{help}");
}

#[test]
fn questions_messages_and_faults_are_shown() {
    let mut state = state();
    press(&mut state, "s");
    let text = drawn(&state, 80, 18);
    assert!(text.contains("Stop train-1 of alice, which holds GPUs 0,1? y/N"), "{text}");
    // Narrow, the question is folded and none of it is lost.
    let text = drawn(&state, 30, 18).replace('\n', " ");
    assert!(text.contains("which holds GPUs 0,1? y/N"), "{text}");
    press(&mut state, "n");
    state.looked(Err(Failure::new("no gpuctl service answers").hint("start it")));
    let text = drawn(&state, 80, 18);
    assert!(text.contains("no gpuctl service answers (start it); shown as 0s ago"), "{text}");
    assert!(text.contains("nothing was changed"), "{text}");
    let mut old = view();
    old.at = Timestamp::from_millis(NOW - 12_000);
    state.looked(Ok(old));
    assert!(drawn(&state, 80, 18).contains("no answer; shown as 12s ago"));
    // Who looks once a minute expects none sooner.
    state.every = Duration::from_secs(60);
    assert!(!drawn(&state, 80, 18).contains("no answer"));
    state.every = Duration::default();
    let mut silent = view();
    silent.silent = Some("the NVIDIA driver does not answer".into());
    state.looked(Ok(silent));
    assert!(drawn(&state, 80, 18).contains("the NVIDIA driver does not answer"));
}

#[test]
fn nothing_that_others_chose_steers_the_terminal() {
    let mut view = view();
    view.rows[0].gpu.holder = Some("a\u{1b}[2Jb".into());
    view.rows[0].processes[0].program = "x\ny\u{202e}".into();
    view.rows[1].gpu.health = "\u{7}".into();
    let mut state = State::default();
    state.looked(Ok(view));
    state.tell("m\u{1b}", true);
    press(&mut state, "s");
    let text = drawn(&state, 200, 20);
    assert!(text.contains("a?[2Jb") && text.contains("x?y?"), "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
}

#[test]
fn without_colour_all_is_said_in_words() {
    let mut state = state();
    press(&mut state, "s");
    state.tell("bad", true);
    state.looked(Err(Failure::new("no answer")));
    let coloured = |colour| {
        let area = Rect::new(0, 0, 80, 24);
        let mut buffer = ratatui::buffer::Buffer::empty(area);
        draw(&mut buffer, area, &state, now(), colour);
        let is_plain = |c: &ratatui::buffer::Cell| c.fg == Color::Reset && c.bg == Color::Reset;
        !buffer.content.iter().all(is_plain)
    };
    assert!(coloured(true) && !coloured(false));
}

#[test]
fn of_a_card_in_parts_the_parts_are_counted_and_slots_have_no_memory() {
    let mut view = view();
    for mig in 0..3 {
        let mut part = row(7, (mig == 1).then_some(("train-1", true)));
        part.gpu.mig = Some(mig);
        part.gpu.uuid = Unit::new(format!("MIG-0000000{mig}-526e-9b3d-771c-e025d69da216")).unwrap();
        view.rows.push(part);
    }
    let mut slot = row(6, Some(("bare", false)));
    slot.gpu.slot = Some(0);
    slot.gpu.uuid = Unit::new(format!("{}/0", slot.gpu.uuid)).unwrap();
    view.rows.push(slot);
    let mut state = State::default();
    state.looked(Ok(view));
    let text = drawn(&state, 100, 24);
    // Six whole cards, three parts of one, a slot of another.
    assert!(text.contains("5 of 10 held"), "{text}");
    assert!(text.contains("7:1 ") && text.contains("6/0   60%  -  "), "{text}");
    press(&mut state, "s");
    assert!(
        matches!(&state.mode, Mode::Confirm { question, .. } if question.contains("GPUs 0,1,7:1?"))
    );
}

/// Bytes written for each of some states, one after the other.
fn written(states: &[State]) -> Vec<usize> {
    use std::io::Write;
    #[derive(Clone, Default)]
    struct Counted(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.fetch_add(bytes.len(), std::sync::atomic::Ordering::Relaxed);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let counted = Counted::default();
    let fixed = Viewport::Fixed(Rect::new(0, 0, 80, 24));
    let options = TerminalOptions { viewport: fixed };
    let backend = CrosstermBackend::new(counted.clone());
    let mut terminal = Terminal::with_options(backend, options).unwrap();
    let mut draw_one = |state: &State| {
        let before = counted.0.load(std::sync::atomic::Ordering::Relaxed);
        terminal
            .draw(|frame| {
                let area = frame.area();
                draw(frame.buffer_mut(), area, state, now(), true);
            })
            .unwrap();
        counted.0.load(std::sync::atomic::Ordering::Relaxed) - before
    };
    states.iter().map(&mut draw_one).collect()
}

#[test]
fn only_what_has_changed_is_written() {
    let same = state();
    let mut other = view();
    other.rows[3].gpu.utilisation = Some(99);
    let mut changed = State::default();
    changed.looked(Ok(other));
    let bytes = written(&[same.clone(), same.clone(), changed, same]);
    assert!(bytes[0] > 1000, "{bytes:?}");
    assert!(bytes[1] < 40, "nothing has changed: {bytes:?}");
    assert!(bytes[2] < 100, "one number has changed: {bytes:?}");
}

#[test]
fn a_look_and_a_draw_of_many_gpus_is_quick() {
    let mut view = view();
    view.rows = (0..64).map(|i| row(i % 8, Some(("train-1", true)))).collect();
    let mut state = State::default();
    state.looked(Ok(view));
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        drawn(&state, 200, 60);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

proptest! {
    /// Whatever is typed, at whatever size: nothing fails, and nothing is done without a y.
    #[test]
    fn no_keys_do_harm(keys in "[a-zA-Z0-9 /<>?\n\u{1b}\u{8}]{0,40}", width in 0..120_u16, height in 0..40_u16) {
        let mut state = state();
        let mut before = String::new();
        for key in keys.chars() {
            let asked = matches!(state.mode, Mode::Confirm { .. });
            let effect = press(&mut state, &key.to_string());
            prop_assert!(!matches!(effect, Effect::Act(_)) || asked && "yY".contains(key), "{before}{key}");
            before.push(key);
            if width > 0 && height > 0 {
                let _ = drawn(&state, width, height);
            }
        }
    }
}
