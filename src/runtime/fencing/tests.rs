use super::*;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QUICK: Times = Times { deadline: Duration::from_millis(1200), status: Duration::from_millis(500) };
/// For what should end by itself, on a busy machine.
const PATIENT: Times = Times { deadline: Duration::from_secs(40), status: Duration::from_secs(20) };

/// An executable script, written by another process: a descriptor for writing that a test forks away with keeps a file
/// from being executed.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("fence_test");
    let mut writer = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    path
}

fn names() -> Names {
    Names { cluster: "lab".into(), victim: "beta".into(), by: "alpha".into() }
}

fn fencing(spec: FencingSpec, times: Times) -> Fencing {
    Fencing::new(spec, names(), times).unwrap()
}

/// An agent with options and a password, whose script finds the action in `$action` and its folder in `$folder`.
fn agent(folder: &Path, text: &str, times: Times) -> Fencing {
    let read = "while read line; do case $line in action=*) action=${line#action=};; folder=*) folder=${line#folder=};; \
                password=*) password=${line#password=};; esac; done";
    let password = folder.join("password");
    std::fs::write(&password, "top-secret\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let spec = AgentSpec {
        file: script(folder, &format!("{read}\n{text}")),
        options: vec![("folder".into(), folder.display().to_string()), ("plug".into(), "7".into())],
        secrets: vec![("password".into(), password)],
    };
    fencing(FencingSpec::Agent(spec), times)
}

/// A device that remembers whether it is off.
const HONEST: &str = "case $action in off) touch $folder/is-off;; on) rm -f $folder/is-off;; \
                      status) test -e $folder/is-off && exit 2; exit 0;; monitor) exit 0;; *) exit 1;; esac";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn an_honest_agent_is_confirmed() {
    let folder = folder();
    let agent = agent(folder.path(), HONEST, PATIENT);
    assert_eq!(agent.monitor().await, Ok(()));
    let outcome = agent.off().await;
    assert!(matches!(&outcome, Outcome::Confirmed(words) if words.contains("beta is off")), "{outcome:?}");
    assert!(folder.path().join("is-off").exists());
    assert!(matches!(agent.off().await, Outcome::Confirmed(_)), "twice does no harm");
    assert_eq!(agent.on().await, Ok(()));
    assert!(!folder.path().join("is-off").exists());
}

/// Somebody else's agent: that of the fence-agents package for tests, whose device is a file.
#[tokio::test]
async fn a_real_agent_is_confirmed() {
    if !Path::new("/usr/sbin/fence_dummy").exists() {
        println!("SKIPPED: fence_dummy is not installed");
        return;
    }
    let folder = folder();
    let file = folder.path().join("status");
    std::fs::write(&file, "on").unwrap();
    let with = |status_file: &Path| {
        let options = vec![("status_file".to_string(), status_file.display().to_string())];
        let spec = AgentSpec { file: "fence_dummy".into(), options, secrets: Vec::new() };
        fencing(FencingSpec::Agent(spec), PATIENT)
    };
    let agent = with(&file);
    assert_eq!(agent.monitor().await, Ok(()));
    let outcome = agent.off().await;
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "off");
    assert!(matches!(agent.off().await, Outcome::Confirmed(_)), "off already");
    assert_eq!(agent.on().await, Ok(()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "on");
    std::fs::write(&file, "neither").unwrap();
    let outcome = agent.off().await;
    assert!(matches!(&outcome, Outcome::Failed(words) if words.contains("status 1")), "{outcome:?}");
}

#[tokio::test]
async fn a_slow_device_is_waited_for() {
    let folder = folder();
    // Off only with the third look.
    let text = "case $action in status) echo look >>$folder/looks; test $(wc -l <$folder/looks) -ge 3 && exit 2;; esac";
    let outcome = agent(folder.path(), text, PATIENT).off().await;
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(folder.path().join("looks")).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn a_liar_is_not_believed() {
    let outcome = agent(folder().path(), "exit 0", QUICK).off().await;
    let Outcome::Failed(words) = outcome else { panic!("{outcome:?}") };
    assert!(words.contains("ended well") && words.contains("beta is still on"), "{words}");
}

#[tokio::test]
async fn a_script_that_can_not_be_read_by_its_shell_confirms_nothing() {
    // A shell ends with 2 then, which is the status of a node that is off.
    let outcome = agent(folder().path(), "fi", QUICK).off().await;
    assert!(matches!(&outcome, Outcome::Failed(words) if words.contains("status 2")), "{outcome:?}");
}

#[tokio::test]
async fn a_failure_shows_what_was_written_but_no_secret() {
    let text = "echo \"login with $password failed\" >&2; exit 1";
    let folder = folder();
    let agent = agent(folder.path(), text, PATIENT);
    for words in [agent.monitor().await.unwrap_err(), agent.off().await.into_result().unwrap_err()] {
        assert!(words.contains("status 1") && words.contains("login with *** failed"), "{words}");
        assert!(!words.contains("top-secret"), "{words}");
    }
    assert!(!format!("{agent:?}").contains("top-secret"));
}

#[tokio::test]
async fn an_unreadable_status_is_unknown() {
    let outcome = agent(folder().path(), "test $action = off || { echo no answer; exit 1; }", QUICK).off().await;
    let Outcome::Unknown(words) = outcome else { panic!("{outcome:?}") };
    assert!(words.contains("can't be read") && words.contains("no answer"), "{words}");
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_it_started() {
    let folder = folder();
    // The child ignores polite requests and holds the output open.
    let text = "(trap '' TERM HUP; sleep 600; true) & echo $! >$folder/left; echo working; sleep 600; exit 0";
    let agent = agent(folder.path(), text, QUICK);
    let began = Instant::now();
    let outcome = agent.off().await;
    let took = began.elapsed();
    let Outcome::Unknown(words) = outcome else { panic!("{outcome:?}") };
    assert!(words.contains("may still switch beta off") && words.contains("working"), "{words}");
    assert!(took >= QUICK.deadline * 3 / 4, "it had its time");
    expect_ended(folder.path());
}

/// The process that the script left behind ends, too.
fn expect_ended(folder: &Path) {
    let id = std::fs::read_to_string(folder.join("left")).unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", id.trim()));
    let until = std::time::Instant::now() + Duration::from_secs(20);
    // Nobody may wait for it where there is no init: then it stays a zombie.
    while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")) {
        assert!(std::time::Instant::now() < until, "process {} is left running", id.trim());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn one_that_ends_and_leaves_a_child_behind_is_not_waited_for() {
    let folder = folder();
    let text = format!("sleep 600 & echo $! >$folder/left; {HONEST}");
    let outcome = agent(folder.path(), &text, PATIENT).off().await;
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");
    expect_ended(folder.path());
}

#[tokio::test]
async fn one_that_writes_megabytes_is_heard_to_the_end_and_kept_short() {
    let text = "i=0; while test $i -lt 300; do head -c 20000 /dev/zero | tr '\\0' x; i=$((i+1)); done; \
                echo; echo $password; echo the reason; exit 1";
    let words = agent(folder().path(), text, PATIENT).off().await.into_result().unwrap_err();
    assert!(words.contains("the reason") && words.contains('…') && !words.contains("top-secret"), "{words}");
    assert!(words.len() < crate::base::limits::FENCING_OUTPUT_BYTES_MAX + 300, "{} bytes", words.len());
}

#[tokio::test]
async fn one_that_does_not_read_its_options_does_no_harm() {
    let folder = folder();
    let file = script(folder.path(), "exec 0<&-; exit 1");
    let long = ("padding".to_string(), "x".repeat(200_000));
    let spec = AgentSpec { file, options: vec![long], secrets: Vec::new() };
    let outcome = fencing(FencingSpec::Agent(spec), PATIENT).off().await;
    assert!(matches!(&outcome, Outcome::Failed(words) if words.contains("status 1")), "{outcome:?}");
}

#[tokio::test]
async fn what_can_not_be_started_is_named() {
    let folder = folder();
    let with = |file: PathBuf| fencing(FencingSpec::Script(ScriptSpec { file }), PATIENT);
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "exit 0").unwrap();
    let empty = script(folder.path(), "");
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (file, word) in [
        (PathBuf::from("/nowhere/fence"), "does not exist"),
        (PathBuf::from("fence_that_is_not_there"), "does not exist"),
        (plain, "is not executable"),
    ] {
        let shown = file.display().to_string();
        let outcome = with(file).off().await;
        let Outcome::Failed(words) = outcome else { panic!("{outcome:?}") };
        assert!(words.contains(word) && words.contains(&shown), "{words}");
    }
    assert_eq!(with(empty).monitor().await, Ok(()));
}

#[tokio::test]
async fn a_script_is_told_everything_and_may_have_no_status() {
    let folder = folder();
    let text = "echo \"$1 $2 $TWINBLOCK_FENCE_ACTION $TWINBLOCK_FENCE_VICTIM $TWINBLOCK_FENCE_BY \
                $TWINBLOCK_FENCE_CLUSTER\" >>$(dirname $0)/told; test $TWINBLOCK_FENCE_SECONDS -gt 0 || exit 9; \
                test $1 = status && exit 3; exit 0";
    let spec = FencingSpec::Script(ScriptSpec { file: script(folder.path(), text) });
    let outcome = fencing(spec, PATIENT).off().await;
    assert!(matches!(&outcome, Outcome::Confirmed(words) if words.contains("as the script says")), "{outcome:?}");
    let told = std::fs::read_to_string(folder.path().join("told")).unwrap();
    assert_eq!(told, "off beta off beta alpha lab\nstatus beta status beta alpha lab\n");
    // An agent has no such word: for it that is a failure.
    let outcome = agent(folder.path(), "test $action = status && exit 3; exit 0", QUICK).off().await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
}

#[tokio::test]
async fn options_that_could_smuggle_in_others_are_refused() {
    let spec = |key: &str, value: &str| {
        let options = vec![(key.to_string(), value.to_string())];
        FencingSpec::Agent(AgentSpec { file: "fence_test".into(), options, secrets: Vec::new() })
    };
    for (key, value, word) in [
        ("ip", "10.0.0.1\naction=on", "more than one line"),
        ("action", "off", "leave it out"),
        ("a b", "c", "no name"),
        ("", "c", "no name"),
    ] {
        let error = Fencing::new(spec(key, value), names(), PATIENT).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}
