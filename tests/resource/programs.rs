//! Scripts and services that work, fail, hang, lie, fork and vanish.

use crate::world::{TIME_MAX, Told, until};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;
use twinblock::io::process;
use twinblock::runtime::resource::script::{Script, ScriptConfig};
use twinblock::runtime::resource::service::{Beyond, Service, ServiceConfig, end_left_behind};
use twinblock::runtime::resource::{
    Context, DiskOutcome, Place, Reason, Resource, State, Trouble, TroubleKind, Verb, What, run,
};

/// Time verbs have that are to succeed.
const VERB_TIME: Duration = Duration::from_secs(20);
/// Time verbs have that are to fail by it.
const SHORT: Duration = Duration::from_millis(400);

/// Runs a task as the daemon does: on one thread.
fn on_daemon<T>(task: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(TIME_MAX * 2, task()).await.unwrap() })
}

/// Writes a program; its path.
fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_string()
}

/// A context of this test alone: what it marks is not another's.
fn context(folder: &Path) -> Context {
    Context { cluster: folder.file_name().unwrap().to_str().unwrap().to_string(), ..Context::for_tests() }
}

fn mark(context: &Context) -> String {
    format!("{}:{}/{}/web", context.state_dir.display(), context.cluster, context.group)
}

async fn within(resource: &dyn Resource, verb: Verb, context: &Context, time: Duration) -> Result<(), Trouble> {
    run(resource, verb, context, Instant::now() + time).await
}

async fn done(resource: &dyn Resource, verb: Verb, context: &Context) {
    if let Err(trouble) = within(resource, verb, context, VERB_TIME).await {
        panic!("{verb}: {trouble}");
    }
}

async fn state(resource: &dyn Resource) -> (State, String) {
    let status = resource.status(Instant::now() + VERB_TIME).await.unwrap();
    (status.state, status.detail)
}

fn script(start: &str, stop: &str) -> Script {
    let command = |words: &str| Some(words.split(' ').map(String::from).collect());
    Script::new(ScriptConfig { name: "web".into(), start: command(start), stop: command(stop), ..Default::default() })
}

#[test]
fn another_daemon_on_the_machine_has_programs_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = write(folder.path(), "leaves", "sleep 60 > /dev/null 2>&1 &");
    on_daemon(async || {
        let ours = context(folder.path());
        // The same cluster, group and resource: both servers of a pair on one machine, to try it.
        let theirs = Context { node: "beta".into(), state_dir: folder.path().join("beta"), ..ours.clone() };
        let script = script(&leaves, "/bin/true");
        done(&script, Verb::Start, &theirs).await;
        assert_eq!(process::marked(&mark(&theirs)).len(), 1);
        done(&script, Verb::Stop, &ours).await;
        assert_eq!(end_left_behind(&ours, "web"), 0);
        assert_eq!(end_left_behind(&theirs, "web"), 1);
    });
}

#[test]
fn a_script_is_told_why_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let program = write(folder.path(), "script", &format!("env > {}; echo \"$1\" >> {0}", out.display()));
    on_daemon(async || {
        let context = Context {
            reason: Reason::Failover,
            place: Place::Other,
            disk: DiskOutcome::Failure,
            addresses: vec!["10.0.0.9".parse().unwrap()],
            ..context(folder.path())
        };
        let script = script(&format!("{program} up"), &format!("{program} down"));
        done(&script, Verb::Check, &context).await;
        done(&script, Verb::Start, &context).await;
        assert_eq!(state(&script).await.0, State::Started);
        let text = std::fs::read_to_string(&out).unwrap();
        for line in [
            "TWINBLOCK_VERB=start",
            "TWINBLOCK_EVENT=failover",
            "ARMS_EVENT=FAILOVER",
            "ARMS_SERVER=OTHER",
            "ARMS_DISK=FAILURE",
            "TWINBLOCK_ADDRESSES=10.0.0.9",
            "TWINBLOCK_RESOURCE=web",
            "up",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        done(&script, Verb::Stop, &context).await;
        assert!(std::fs::read_to_string(&out).unwrap().contains("TWINBLOCK_VERB=stop"));
        assert_eq!(state(&script).await.0, State::Stopped);
        // Without a monitor program there is nothing to be wrong.
        done(&script, Verb::Monitor, &context).await;
    });
}

#[test]
fn a_script_that_cannot_be_run_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let plain = write(folder.path(), "plain", "true");
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).unwrap();
    let open = write(folder.path(), "open", "true");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let cases = [
        (path("absent"), "does not exist; install it on this server, too", TroubleKind::Environment),
        (plain, "is not executable (mode 0644); run `chmod +x", TroubleKind::Environment),
        (open, "may be changed by anybody (mode 0777)", TroubleKind::Environment),
        (path(""), "is no regular file", TroubleKind::Config),
        ("sleep".into(), "sleep is no absolute path", TroubleKind::Config),
    ];
    on_daemon(async || {
        let context = context(folder.path());
        for (program, words, kind) in cases {
            let script = script(&program, &program);
            for verb in [Verb::Check, Verb::Start] {
                let trouble = within(&script, verb, &context, VERB_TIME).await.unwrap_err();
                assert!(trouble.to_string().contains(words), "{trouble}");
                assert_eq!((trouble.kind, trouble.thing.as_str()), (kind, "web (start)"));
            }
        }
        let nothing = Script::new(ScriptConfig { name: "web".into(), ..Default::default() });
        let trouble = within(&nothing, Verb::Check, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("neither a start, a stop nor a monitor"), "{trouble}");
        // This can only be seen by trying.
        let lost = path("lost");
        std::fs::write(&lost, "#!/nonexistent/sh\n").unwrap();
        std::fs::set_permissions(&lost, PermissionsExt::from_mode(0o755)).unwrap();
        let trouble = within(&script(&lost, &lost), Verb::Start, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("the interpreter of its first line"), "{trouble}");
    });
}

#[test]
fn a_script_that_fails_is_quoted_and_its_words_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let program = write(folder.path(), "script", "echo to output; echo no space left >&2; exit 3");
    let loud = write(folder.path(), "loud", "yes 0123456789 | head -c 10000000; echo the end; exit 1");
    let dead = write(folder.path(), "dead", "kill -SEGV $$");
    on_daemon(async || {
        let context = context(folder.path());
        let failing = script(&program, &program);
        let trouble = within(&failing, Verb::Start, &context, VERB_TIME).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::Transient);
        assert!(trouble.reason.contains("ended with status 3, saying: to output\nno space left"), "{trouble}");
        assert_eq!(state(&failing).await.0, State::Stopped);
        let trouble = within(&failing, Verb::Stop, &context, VERB_TIME).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::StopFailed);
        let trouble = within(&script(&loud, &loud), Verb::Start, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.ends_with("the end") && trouble.reason.len() < 5000, "{}", trouble.reason.len());
        let trouble = within(&script(&dead, &dead), Verb::Start, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("signal SIGSEGV"), "{trouble}");
    });
}

#[test]
fn a_script_that_hangs_is_killed_with_everything_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let deaf = write(folder.path(), "deaf", "trap '' TERM; echo waiting; sleep 1000 & sleep 1000; wait");
    let heeding = write(folder.path(), "heeding", "trap 'echo asked to end; exit 0' TERM; sleep 1000 & wait");
    on_daemon(async || {
        let context = context(folder.path());
        for (program, said) in [(deaf, "waiting"), (heeding, "asked to end")] {
            let began = Instant::now();
            let trouble = within(&script(&program, &program), Verb::Start, &context, SHORT).await.unwrap_err();
            assert!(trouble.reason.contains("did not end within 0.4 s and was killed"), "{trouble}");
            assert!(trouble.reason.contains(said), "{trouble}");
            assert!(began.elapsed() < TIME_MAX);
            until("nothing of it is left", || process::marked(&mark(&context)).is_empty()).await;
        }
    });
}

#[test]
fn what_a_script_leaves_running_is_found_wherever_it_hides() {
    let folder = tempfile::tempdir().unwrap();
    // In a session of its own, with its output closed: as a daemon is.
    let start = write(folder.path(), "start", "setsid sleep 1000 >/dev/null 2>&1 </dev/null & exit 0");
    let stop = write(folder.path(), "stop", "exit 0");
    on_daemon(async || {
        let context = context(folder.path());
        let script = script(&start, &stop);
        done(&script, Verb::Start, &context).await;
        until("it runs", || !process::marked(&mark(&context)).is_empty()).await;
        let trouble = within(&script, Verb::Stop, &context, VERB_TIME).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::StopFailed);
        assert!(trouble.reason.contains("these still run: sleep ("), "{trouble}");
        assert_eq!(end_left_behind(&context, "web"), 1);
        until("it is gone", || process::marked(&mark(&context)).is_empty()).await;
        done(&script, Verb::Stop, &context).await;
    });
}

#[test]
fn a_script_whose_child_holds_the_output_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let start = write(folder.path(), "start", "sleep 1000 & echo started");
    let stop = write(folder.path(), "stop", "exit 0");
    on_daemon(async || {
        let context = context(folder.path());
        let began = Instant::now();
        done(&script(&start, &stop), Verb::Start, &context).await;
        assert!(began.elapsed() < VERB_TIME, "it did not wait for the child's end");
        assert_eq!(end_left_behind(&context, "web"), 1);
    });
}

fn service(command: &str) -> ServiceConfig {
    let mut config = ServiceConfig::of_command("web", command.split(' ').map(String::from).collect());
    config.restart_pause = Duration::from_millis(10);
    config
}

fn process_of(words: &str) -> i32 {
    words.split("process ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
}

#[test]
fn a_service_runs_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let noted = folder.path().join("ended");
    let text = format!("trap 'echo done > {}; exit 0' TERM; sleep 1000 & wait", noted.display());
    let program = write(folder.path(), "service", &text);
    on_daemon(async || {
        let context = context(folder.path());
        let (sender, _told) = Told::channel();
        let service = Service::new(service(&program), sender);
        done(&service, Verb::Check, &context).await;
        done(&service, Verb::Stop, &context).await;
        assert_eq!(within(&service, Verb::Monitor, &context, VERB_TIME).await.unwrap_err().reason, "it does not run");
        done(&service, Verb::Start, &context).await;
        let (state_now, words) = state(&service).await;
        assert_eq!(state_now, State::Started, "{words}");
        done(&service, Verb::Start, &context).await;
        assert_eq!(state(&service).await.1, words, "still the same process");
        done(&service, Verb::Monitor, &context).await;
        done(&service, Verb::Stop, &context).await;
        assert!(noted.exists(), "it was asked before it was killed");
        assert!(process::marked(&mark(&context)).is_empty(), "its child is gone, too");
        assert_eq!(state(&service).await.0, State::Stopped);
        done(&service, Verb::Stop, &context).await;
    });
}

#[test]
fn a_service_that_will_not_end_is_killed_with_all_it_forked() {
    let folder = tempfile::tempdir().unwrap();
    let text = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000' & while :; do sleep 1000; done";
    let program = write(folder.path(), "service", text);
    on_daemon(async || {
        let context = context(folder.path());
        let (sender, _told) = Told::channel();
        let service = Service::new(service(&program), sender);
        done(&service, Verb::Start, &context).await;
        until("it forked", || process::marked(&mark(&context)).len() >= 3).await;
        within(&service, Verb::Stop, &context, SHORT).await.unwrap();
        assert_eq!(process::marked(&mark(&context)), [0i32; 0]);
    });
}

#[test]
fn a_service_is_restarted_so_many_times_and_then_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let program = write(folder.path(), "service", "echo port taken >&2; sleep 1000");
    for beyond in [Beyond::Failover, Beyond::StopGroup, Beyond::Alarm] {
        on_daemon(async || {
            let context = context(folder.path());
            let (sender, mut told) = Told::channel();
            let service = Service::new(ServiceConfig { restarts_max: 2, beyond, ..service(&program) }, sender);
            done(&service, Verb::Start, &context).await;
            for count in 1..=2 {
                process::kill_process(process_of(&state(&service).await.1));
                let words = told.repaired(&format!("restarted, {count} of 2")).await;
                assert!(words.contains("it ended with signal SIGKILL"), "{words}");
                // Later ones are killed before they say a word.
                assert!(count > 1 || words.contains("saying: port taken"), "{words}");
            }
            let (_, words) = state(&service).await;
            assert!(words.ends_with("restarted 2 times"), "{words}");
            process::kill_process(process_of(&words));
            let last = told.next("the end", |_| true).await;
            match (beyond, &last) {
                (Beyond::Failover, What::Failed(trouble)) | (Beyond::StopGroup, What::StopServing(trouble)) => {
                    assert!(trouble.reason.contains("it was restarted 2 times already"), "{trouble}");
                }
                (Beyond::Alarm, What::Alarm(words)) => assert!(words.contains("2 times already"), "{words}"),
                _ => panic!("{beyond:?} was told as {last:?}"),
            }
            assert_eq!(state(&service).await.0, State::Broken);
            assert!(within(&service, Verb::Monitor, &context, VERB_TIME).await.is_err());
            // A start by hand begins anew.
            done(&service, Verb::Start, &context).await;
            assert_eq!(state(&service).await.0, State::Started);
            done(&service, Verb::Stop, &context).await;
        });
    }
}

#[test]
fn a_service_that_ends_at_once_did_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let program = write(folder.path(), "service", "echo no such file; exit 7");
    on_daemon(async || {
        let context = context(folder.path());
        let (sender, _told) = Told::channel();
        let service = Service::new(ServiceConfig { settle: Duration::from_secs(10), ..service(&program) }, sender);
        let trouble = within(&service, Verb::Start, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("ended at once, with status 7, saying: no such file"), "{trouble}");
        assert_eq!(state(&service).await.0, State::Stopped);
        done(&service, Verb::Stop, &context).await;
    });
}

#[test]
fn a_service_can_be_asked_whether_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let program = write(folder.path(), "service", "exec sleep 1000");
    let answers = folder.path().join("answers");
    let asks = write(folder.path(), "asks", &format!("test -e {} || {{ echo refused; exit 1; }}", answers.display()));
    on_daemon(async || {
        let context = context(folder.path());
        let (sender, _told) = Told::channel();
        let service = Service::new(ServiceConfig { monitor: Some(vec![asks]), ..service(&program) }, sender);
        done(&service, Verb::Start, &context).await;
        let trouble = within(&service, Verb::Monitor, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("saying: refused"), "{trouble}");
        std::fs::write(&answers, "").unwrap();
        done(&service, Verb::Monitor, &context).await;
        done(&service, Verb::Stop, &context).await;
    });
}

/// Not a test of its own: the daemon that the next one kills, when its variable says so.
#[test]
fn stand_in_for_a_daemon() {
    let Some(program) = std::env::var_os(STAND_IN) else { return };
    let program = program.into_string().unwrap();
    let context = context(Path::new(&program).parent().unwrap());
    let (sender, _told) = Told::channel();
    on_daemon(async || {
        let service = Service::new(service(&program), sender);
        done(&service, Verb::Start, &context).await;
        std::future::pending::<()>().await;
    });
}

const STAND_IN: &str = "TB_TEST_STAND_IN";

#[test]
fn a_service_dies_with_its_daemon_and_its_children_are_ended_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let program = write(folder.path(), "service", "setsid sleep 1000 & exec sleep 2000");
    let context = context(folder.path());
    let left = || process::marked(&mark(&context));
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "programs::stand_in_for_a_daemon"])
        .env(STAND_IN, &program)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    on_daemon(async || {
        until("it forked", || left().len() == 2).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        until("the service itself is dead", || left().len() == 1).await;
        assert_eq!(end_left_behind(&context, "web"), 1);
        until("nothing is left", || left().is_empty()).await;
    });
}

#[test]
fn a_program_whose_file_cannot_be_opened_for_ever_holds_up_nobody_else() {
    use std::os::fd::AsRawFd;
    // Of fcntl.h, the same on every architecture of Linux.
    const F_SETSIG: i32 = 10;
    let folder = tempfile::tempdir().unwrap();
    let program = write(folder.path(), "script", "exit 0");
    // Whoever opens a file with a lease waits for its holder, as for a disk that hangs.
    let file = std::fs::File::options().read(true).write(true).open(&program).unwrap();
    // SAFETY: both calls take no pointers. The signal a lease is broken with is one that is ignored.
    let leased = unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
    };
    if !leased {
        eprintln!("SKIPPED: the file system of {} has no leases", folder.path().display());
        return;
    }
    on_daemon(async || {
        let context = context(folder.path());
        let script = script(&program, &program);
        let mut turns = 0;
        let others = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                turns += 1;
            }
        };
        tokio::select! {
            stuck = within(&script, Verb::Start, &context, SHORT) => {
                let trouble = stuck.unwrap_err();
                assert!(trouble.reason.contains("it could not even be started"), "{trouble}");
            }
            () = others => unreachable!("they go on for ever"),
        }
        assert!(turns > 10, "{turns}");
    });
}

/// A stand-in for systemctl that keeps a unit's state in a file.
fn systemctl(folder: &Path) -> PathBuf {
    let state = folder.join("state");
    std::fs::write(&state, "inactive").unwrap();
    let text = format!(
        "state={}\nfor word; do case $word in start|stop|show|reset-failed) verb=$word;; esac; done\n\
         echo \"$*\" >> {}/log\n\
         case $verb in\n\
         start) test -e {1}/refuse && {{ echo 'Job failed.'; exit 1; }}; echo active > $state;;\n\
         stop) test -e {1}/hang && sleep 1000; echo inactive > $state;;\n\
         show) cat {1}/unit; echo ActiveState=$(cat $state); echo SubState=x; echo Result=success;;\n\
         esac",
        state.display(),
        folder.display()
    );
    std::fs::write(folder.join("unit"), "LoadState=loaded\nUnitFileState=disabled\n").unwrap();
    write(folder, "systemctl", &text).into()
}

#[test]
fn a_unit_is_started_watched_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = ServiceConfig {
        systemctl: systemctl(folder.path()),
        look_interval: Duration::from_millis(20),
        restart_pause: Duration::from_millis(10),
        restarts_max: 1,
        ..ServiceConfig::of_unit("web", "nginx.service")
    };
    on_daemon(async || {
        let context = context(folder.path());
        let (sender, mut told) = Told::channel();
        let service = Service::new(config, sender);
        done(&service, Verb::Check, &context).await;
        for (unit, words) in [
            ("LoadState=not-found", "the unit nginx.service is not-found"),
            ("LoadState=masked", "systemctl unmask"),
            ("LoadState=loaded\nUnitFileState=enabled", "systemctl disable"),
        ] {
            std::fs::write(at("unit"), format!("{unit}\n")).unwrap();
            let trouble = within(&service, Verb::Check, &context, VERB_TIME).await.unwrap_err();
            assert!(trouble.to_string().contains(words), "{trouble}");
        }
        std::fs::write(at("refuse"), "").unwrap();
        let trouble = within(&service, Verb::Start, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.to_string().contains("failed, saying: Job failed."), "{trouble}");
        std::fs::remove_file(at("refuse")).unwrap();
        done(&service, Verb::Start, &context).await;
        assert_eq!(state(&service).await.0, State::Started);
        done(&service, Verb::Monitor, &context).await;
        std::fs::write(at("state"), "failed").unwrap();
        told.repaired("is failed (x); restarted, 1 of 1").await;
        std::fs::write(at("state"), "failed").unwrap();
        told.failed("it was restarted 1 times already").await;
        assert!(within(&service, Verb::Monitor, &context, VERB_TIME).await.is_err());
        std::fs::write(at("hang"), "").unwrap();
        let trouble = within(&service, Verb::Stop, &context, SHORT).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::StopFailed);
        assert!(trouble.reason.contains("`systemctl stop nginx.service` did not end in its time"), "{trouble}");
        std::fs::remove_file(at("hang")).unwrap();
        done(&service, Verb::Stop, &context).await;
        assert_eq!(state(&service).await.0, State::Stopped);
    });
}

#[test]
fn where_systemd_does_not_run_it_is_said() {
    on_daemon(async || {
        let (sender, _told) = Told::channel();
        let context = Context::for_tests();
        let absent = ServiceConfig {
            systemctl: "/nonexistent/systemctl".into(),
            ..ServiceConfig::of_unit("web", "nginx.service")
        };
        let trouble =
            within(&Service::new(absent, sender.clone()), Verb::Check, &context, VERB_TIME).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::Environment);
        assert!(trouble.next.contains("use `command` in place of `unit`"), "{trouble}");
        for unit in ["", "-h", "a b", "a;b"] {
            let service = Service::new(ServiceConfig::of_unit("web", unit), sender.clone());
            let trouble = within(&service, Verb::Check, &context, VERB_TIME).await.unwrap_err();
            assert!(trouble.reason.contains("is no unit"), "{trouble}");
        }
        let both = ServiceConfig { unit: Some("a".into()), ..service("/bin/cat") };
        let trouble = within(&Service::new(both, sender), Verb::Check, &context, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("either `unit` or `command`"), "{trouble}");
    });
}
