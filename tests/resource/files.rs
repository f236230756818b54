//! Files that follow the group between two servers: one directory tree for each, of which the one in use has the name.

use crate::world::{TIME_MAX, Told, until};
use std::cell::{Cell, RefCell};
use std::fs;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;
use twinblock::io::files::capture;
use twinblock::runtime::resource::files::{FilesConfig, SyncedFiles, Transport};
use twinblock::runtime::resource::{Context, Resource, State, Trouble, TroubleKind, Verb, run};

const VERB_TIME: Duration = Duration::from_secs(20);

/// The way to the other server, which can be cut.
#[derive(Default)]
struct Way {
    to: RefCell<Option<Rc<SyncedFiles>>>,
    cut: Cell<bool>,
    carried: Cell<u32>,
}

impl Transport for Way {
    fn send<'a>(
        &'a self,
        resource: &'a str,
        bundle: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        assert_eq!(resource, "settings");
        Box::pin(async move {
            if self.cut.get() {
                return Err("the way is cut".into());
            }
            let to = self.to.borrow().clone().expect("somebody is there");
            to.receive(bundle).await.map_err(|trouble| trouble.to_string())?;
            self.carried.set(self.carried.get() + 1);
            Ok(())
        })
    }
}

/// Two servers with the same paths on one machine: only one at a time has its tree under the common name.
struct Pair {
    folder: tempfile::TempDir,
    files: [Rc<SyncedFiles>; 2],
    ways: [Rc<Way>; 2],
    told: Told,
    here: Cell<usize>,
}

impl Pair {
    fn new(change: impl Fn(&mut FilesConfig)) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let (sender, told) = Told::channel();
        let tree = folder.path().join("tree");
        let mut config: FilesConfig = toml::from_str("name = \"settings\"\npaths = []").unwrap();
        config.paths = vec![tree.join("single.conf"), tree.join("conf.d")];
        config.settle = Duration::from_millis(10);
        change(&mut config);
        let ways = [Rc::new(Way::default()), Rc::new(Way::default())];
        let files = [0, 1].map(|node| {
            let (state, name) = (folder.path().join(format!("state{node}")), ["alpha", "beta"][node]);
            Rc::new(SyncedFiles::new(config.clone(), state, name, ways[node].clone(), sender.clone()))
        });
        for node in [0, 1] {
            *ways[node].to.borrow_mut() = Some(files[1 - node].clone());
        }
        fs::create_dir_all(tree.join("conf.d/deep")).unwrap();
        fs::write(tree.join("single.conf"), "one").unwrap();
        fs::write(tree.join("conf.d/deep/file"), "two").unwrap();
        fs::create_dir(folder.path().join("tree1")).unwrap();
        Pair { folder, files, ways, told, here: Cell::new(0) }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("tree").join(path)
    }

    fn roots(&self) -> [PathBuf; 2] {
        [self.at("single.conf"), self.at("conf.d")]
    }

    /// The other server's tree gets the common name.
    fn switch(&self) {
        let (here, folder) = (self.here.get(), self.folder.path());
        fs::rename(folder.join("tree"), folder.join(format!("tree{here}"))).unwrap();
        fs::rename(folder.join(format!("tree{}", 1 - here)), folder.join("tree")).unwrap();
        self.here.set(1 - here);
    }

    async fn verb(&self, verb: Verb) -> Result<(), Trouble> {
        let resource = &*self.files[self.here.get()];
        run(resource, verb, &Context::for_tests(), Instant::now() + VERB_TIME).await
    }

    async fn done(&self, verb: Verb) {
        if let Err(trouble) = self.verb(verb).await {
            panic!("{verb}: {trouble}");
        }
    }

    async fn status(&self) -> (State, String) {
        let status = self.files[self.here.get()].status(Instant::now() + VERB_TIME).await.unwrap();
        (status.state, status.detail)
    }

    /// Waits until the other server has everything as it is here now.
    async fn settled(&self) {
        let roots = self.roots();
        let other = self.folder.path().join(format!("state{}/settings.files", 1 - self.here.get()));
        until("the other server has it", || {
            let kept = fs::read(&other).ok().and_then(|bytes| twinblock::wire::files::Bundle::from_bytes(&bytes).ok());
            kept.is_some_and(|kept| capture(&roots, 1 << 20).is_ok_and(|now| now == kept.entries))
        })
        .await;
    }
}

fn on_daemon<T>(task: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(TIME_MAX * 2, task()).await.unwrap() })
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn files_are_there_as_they_were_when_the_group_comes() {
    on_daemon(async || {
        let pair = Pair::new(|_| ());
        pair.done(Verb::Check).await;
        pair.done(Verb::Start).await;
        pair.done(Verb::Start).await;
        pair.settled().await;
        // Everything that can change, changes.
        fs::write(pair.at("new"), "beside: replaced in one step").unwrap();
        fs::rename(pair.at("new"), pair.at("single.conf")).unwrap();
        fs::set_permissions(pair.at("single.conf"), PermissionsExt::from_mode(0o4640)).unwrap();
        fs::create_dir_all(pair.at("conf.d/other")).unwrap();
        fs::set_permissions(pair.at("conf.d/other"), PermissionsExt::from_mode(0o710)).unwrap();
        fs::write(pair.at("conf.d/other/ö \n x"), [0, 159, 146, 150]).unwrap();
        symlink("/nonexistent/../target", pair.at("conf.d/link")).unwrap();
        fs::remove_dir_all(pair.at("conf.d/deep")).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::lchown(pair.at("conf.d/link"), Some(7), Some(8)).unwrap();
            std::os::unix::fs::chown(pair.at("conf.d/other"), Some(9), Some(10)).unwrap();
        }
        pair.settled().await;
        let wanted = capture(&pair.roots(), 1 << 20).unwrap();
        until("that is shown", || pair.ways[0].carried.get() >= 2).await;
        pair.done(Verb::Monitor).await;
        pair.done(Verb::Stop).await;
        let (state, words) = pair.status().await;
        assert_eq!(state, State::Stopped, "{words}");

        pair.switch();
        // There, some of it is of another kind.
        fs::create_dir_all(pair.at("single.conf")).unwrap();
        fs::create_dir_all(pair.at("conf.d/link/full")).unwrap();
        fs::write(pair.at("conf.d/other"), "a file").unwrap();
        fs::write(pair.at("conf.d/stale"), "old").unwrap();
        pair.done(Verb::Start).await;
        assert_eq!(capture(&pair.roots(), 1 << 20).unwrap(), wanted);
        assert_eq!(fs::metadata(pair.at("single.conf")).unwrap().mode() & 0o7777, 0o4640);
        assert_eq!(fs::read_link(pair.at("conf.d/link")).unwrap(), Path::new("/nonexistent/../target"));
        assert!(!pair.at("conf.d/stale").exists() && !pair.at("conf.d/deep").exists());
        // What it replaced is kept.
        let before = fs::read(pair.folder.path().join("state1/settings.before")).unwrap();
        let before = twinblock::wire::files::Bundle::from_bytes(&before).unwrap();
        assert!(before.entries.iter().any(|entry| entry.path == b"stale"));
        // And back, with what changed there.
        fs::write(pair.at("single.conf"), "changed there").unwrap();
        pair.done(Verb::Stop).await;
        pair.switch();
        pair.done(Verb::Start).await;
        assert_eq!(read(&pair.at("single.conf")), "changed there");
        pair.done(Verb::Stop).await;
    });
}

#[test]
fn a_restart_here_keeps_what_was_changed_here() {
    on_daemon(async || {
        let pair = Pair::new(|_| ());
        pair.done(Verb::Start).await;
        pair.settled().await;
        pair.done(Verb::Stop).await;
        pair.switch();
        pair.done(Verb::Start).await;
        pair.done(Verb::Stop).await;
        // Changed by hand while the group is stopped: newer than anything the other server sent.
        fs::write(pair.at("single.conf"), "by hand").unwrap();
        pair.done(Verb::Start).await;
        assert_eq!(read(&pair.at("single.conf")), "by hand");
        pair.settled().await;
        pair.done(Verb::Stop).await;
    });
}

#[test]
fn a_cut_is_told_and_made_up_for() {
    on_daemon(async || {
        let mut pair = Pair::new(|_| ());
        pair.ways[0].cut.set(true);
        pair.done(Verb::Start).await;
        pair.told.alarm("could not be copied to the other server: the way is cut").await;
        assert!(pair.status().await.1.contains("the other server has 0"));
        fs::write(pair.at("single.conf"), "meanwhile").unwrap();
        pair.ways[0].cut.set(false);
        pair.settled().await;
        pair.ways[0].cut.set(true);
        fs::write(pair.at("single.conf"), "too late").unwrap();
        pair.done(Verb::Stop).await;
        pair.told.alarm("the last version of the files is not on the other server").await;
    });
}

#[test]
fn too_much_a_pipe_or_a_missing_file_is_told_and_nothing_is_lost() {
    on_daemon(async || {
        let mut pair = Pair::new(|config| config.bytes_max = 1000);
        pair.done(Verb::Start).await;
        pair.settled().await;
        fs::write(pair.at("conf.d/large"), vec![1; 1000]).unwrap();
        let words = pair.told.alarm("there are more than 1000 bytes").await;
        assert!(words.contains("conf.d/"), "{words}");
        assert_eq!(pair.verb(Verb::Monitor).await.unwrap_err().kind, TroubleKind::Environment);
        assert_eq!(pair.status().await.0, State::Broken);
        fs::remove_file(pair.at("conf.d/large")).unwrap();
        pair.told.repaired("copied again").await;
        nix::unistd::mkfifo(&pair.at("conf.d/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        pair.told.alarm("it is no file, directory or symbolic link").await;
        fs::remove_file(pair.at("conf.d/pipe")).unwrap();
        pair.told.repaired("copied again").await;
        // A configured path that is gone is no wish to remove it there.
        fs::remove_file(pair.at("single.conf")).unwrap();
        pair.told.alarm("single.conf: No such file").await;
        pair.done(Verb::Stop).await;
        pair.switch();
        pair.done(Verb::Start).await;
        assert_eq!(read(&pair.at("single.conf")), "one");
        pair.done(Verb::Stop).await;
    });
}

#[test]
fn what_the_other_server_must_not_send_is_refused() {
    on_daemon(async || {
        let pair = Pair::new(|_| ());
        pair.done(Verb::Start).await;
        pair.settled().await;
        let refused = async |node: usize, bytes: Vec<u8>, words: &str| {
            let trouble = pair.files[node].receive(bytes).await.unwrap_err();
            assert!(trouble.to_string().contains(words), "{trouble}");
        };
        let kept = fs::read(pair.folder.path().join("state1/settings.files")).unwrap();
        refused(0, kept.clone(), "while the group is started here").await;
        pair.files[1].receive(kept.clone()).await.unwrap();
        let mut bundle = twinblock::wire::files::Bundle::from_bytes(&kept).unwrap();
        refused(1, b"nonsense".to_vec(), "is no bundle of files").await;
        refused(1, kept[..kept.len() - 1].to_vec(), "is no bundle of files").await;
        bundle.version += 1;
        pair.files[1].receive(bundle.to_bytes()).await.unwrap();
        refused(1, kept, "version 1 came, but version 2 of alpha is kept here").await;
        bundle.node = "other".into();
        refused(1, bundle.to_bytes(), "compare the files by hand").await;
        bundle.roots.reverse();
        refused(1, bundle.to_bytes(), "lists other paths").await;
        // A damaged copy is not put in place.
        pair.done(Verb::Stop).await;
        pair.switch();
        let file = pair.folder.path().join("state1/settings.files");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        let trouble = pair.verb(Verb::Start).await.unwrap_err();
        assert!(trouble.reason.contains("is damaged: its checksum is wrong"), "{trouble}");
    });
}

#[test]
fn paths_that_make_no_sense_are_refused() {
    on_daemon(async || {
        let cases: [(&[&str], &str); 6] = [
            (&[], "there are 0 paths"),
            (&["etc/a"], "is no plain absolute path"),
            (&["/etc/../a"], "is no plain absolute path"),
            (&["/"], "is no plain absolute path"),
            (&["/etc/a", "/etc/b", "/etc/a/c"], "contain each other"),
            (&["/tmp"], "contains the daemon's own files"),
        ];
        for (paths, words) in cases {
            let pair = Pair::new(|config| config.paths = paths.iter().map(PathBuf::from).collect());
            let trouble = pair.verb(Verb::Check).await.unwrap_err();
            assert_eq!(trouble.kind, TroubleKind::Config);
            assert!(trouble.reason.contains(words), "{trouble}");
        }
        let pair = Pair::new(|config| config.bytes_max = 1 << 40);
        assert!(pair.verb(Verb::Check).await.unwrap_err().reason.contains("bytes_max"));
    });
}
