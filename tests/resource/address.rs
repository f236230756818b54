//! Floating addresses between hosts on one switch.

use crate::or_skip;
use crate::world::{TIME_MAX, Told, World, missing, until, v4, v6};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;
use twinblock::runtime::resource::address::{
    AddressConfig, AddressTimers, FloatingAddress, OnDuplicate, left_behind, remove_left_behind,
};
use twinblock::runtime::resource::{Context, Resource, State, Trouble, TroubleKind, Verb, run};

const VERB_TIME: Duration = Duration::from_secs(20);

fn config(address: IpAddr) -> AddressConfig {
    AddressConfig::new("web", address)
}

async fn verb(resource: &FloatingAddress, verb: Verb) -> Result<(), Trouble> {
    run(resource, verb, &Context::for_tests(), Instant::now() + VERB_TIME).await
}

async fn state(resource: &FloatingAddress) -> (State, String) {
    let status = resource.status(Instant::now() + VERB_TIME).await.unwrap();
    (status.state, status.detail)
}

/// Both families, where the same is expected of both.
fn families() -> [IpAddr; 2] {
    [v4(50), v6(50)]
}

#[test]
fn a_claim_reaches_everybody_and_a_stop_takes_it_back() {
    or_skip!(missing());
    let world = World::new(3);
    for address in families() {
        // The third host believes the address elsewhere, as after a move.
        world.remember(2, address, "02:00:00:00:00:99");
        let (sender, _told) = Told::channel();
        let (wrong_at, took) = world.on(0, async || {
            let floating = FloatingAddress::new(config(address), sender);
            verb(&floating, Verb::Check).await.unwrap();
            assert_eq!(state(&floating).await.0, State::Stopped);
            let began = Instant::now();
            verb(&floating, Verb::Start).await.unwrap();
            let took = began.elapsed();
            until("the neighbour learns it", || world.neighbour(2, address) == Some(world.mac(0))).await;
            let wrong_at = began.elapsed();
            verb(&floating, Verb::Start).await.unwrap();
            verb(&floating, Verb::Check).await.unwrap();
            let (state_now, words) = state(&floating).await;
            assert_eq!(state_now, State::Started, "{words}");
            assert_eq!(world.ip(0, &["-o", "address", "show"]).matches(&format!(" {address}/")).count(), 1);
            verb(&floating, Verb::Monitor).await.unwrap();
            verb(&floating, Verb::Stop).await.unwrap();
            assert!(!world.has(0, address));
            verb(&floating, Verb::Stop).await.unwrap();
            assert_eq!(state(&floating).await.0, State::Stopped);
            (wrong_at, took)
        });
        println!("{address}: claim with duplicate detection {took:?}, a third host's table right after {wrong_at:?}");
    }
}

#[test]
fn an_address_in_use_is_not_claimed() {
    or_skip!(missing());
    let world = World::new(2);
    for address in families() {
        let words = format!("{address}/24");
        let mut words = vec!["address", "add", &words, "dev", "eth0"];
        // Else the kernel itself would look for duplicates first.
        words.extend(address.is_ipv6().then_some("nodad"));
        world.ip(1, &words);
        let (sender, mut told) = Told::channel();
        world.on(0, async || {
            let refusing = FloatingAddress::new(config(address), sender.clone());
            let began = Instant::now();
            let trouble = verb(&refusing, Verb::Start).await.unwrap_err();
            println!("{address}: a duplicate was found in {:?}", began.elapsed());
            assert_eq!(trouble.kind, TroubleKind::Transient);
            assert!(trouble.to_string().contains(&world.mac(1)), "{trouble}");
            assert!(!world.has(0, address));
            verb(&refusing, Verb::Stop).await.unwrap();
            // Where an arbiter has proven that nobody else may have it, it is claimed with an alarm.
            let claiming = AddressConfig { on_duplicate: OnDuplicate::Claim, ..config(address) };
            let claiming = FloatingAddress::new(claiming, sender.clone());
            verb(&claiming, Verb::Start).await.unwrap();
            told.alarm("it is claimed all the same").await;
            verb(&claiming, Verb::Stop).await.unwrap();
            let blind = FloatingAddress::new(AddressConfig { probe: false, ..config(address) }, sender);
            verb(&blind, Verb::Start).await.unwrap();
            verb(&blind, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn an_address_removed_by_hand_is_put_back() {
    or_skip!(missing());
    let world = World::new(1);
    for address in families() {
        let (sender, mut told) = Told::channel();
        world.on(0, async || {
            let floating = FloatingAddress::new(config(address), sender);
            verb(&floating, Verb::Start).await.unwrap();
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            world.ip(0, &["address", "delete", &format!("{address}/{prefix}"), "dev", "eth0"]);
            let began = Instant::now();
            told.repaired("was gone from eth0 and is back").await;
            println!("{address}: put back in {:?}", began.elapsed());
            assert!(world.has(0, address));
            verb(&floating, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn an_interface_switched_off_is_switched_on() {
    or_skip!(missing());
    let world = World::new(2);
    let address = v4(50);
    let (sender, mut told) = Told::channel();
    world.on(0, async || {
        let floating = FloatingAddress::new(config(address), sender);
        verb(&floating, Verb::Start).await.unwrap();
        world.remember(1, address, "02:00:00:00:00:99");
        world.ip(0, &["link", "set", "eth0", "down"]);
        told.repaired("the interface eth0 was off").await;
        // Announced again: nobody must wait for the periodic refresh.
        until("the neighbour learns it", || world.neighbour(1, address) == Some(world.mac(0))).await;
        verb(&floating, Verb::Stop).await.unwrap();
        // Before a claim, too.
        world.ip(0, &["link", "set", "eth0", "down"]);
        verb(&floating, Verb::Start).await.unwrap();
        verb(&floating, Verb::Stop).await.unwrap();
    });
}

#[test]
fn a_cable_pulled_is_a_failure_and_its_return_is_announced() {
    or_skip!(missing());
    let world = World::new(2);
    for address in families() {
        let (sender, mut told) = Told::channel();
        world.on(0, async || {
            let mut config = config(address);
            config.timers.link_grace = Duration::from_millis(20);
            // Nothing but the return of the link makes it announce.
            config.timers.announce_refresh = Duration::ZERO;
            config.timers.announce_count = 1;
            let floating = FloatingAddress::new(config, sender);
            verb(&floating, Verb::Start).await.unwrap();
            world.cable(0, false);
            let failure = told.failed("eth0 has no carrier").await;
            assert!(failure.contains("look at its cable"), "{failure}");
            assert_eq!(state(&floating).await.0, State::Broken);
            assert_eq!(verb(&floating, Verb::Monitor).await.unwrap_err().kind, TroubleKind::Transient);
            world.remember(1, address, "02:00:00:00:00:99");
            world.cable(0, true);
            told.repaired("is well again").await;
            until("the neighbour learns it", || world.neighbour(1, address) == Some(world.mac(0))).await;
            verb(&floating, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn a_second_owner_is_an_alarm() {
    or_skip!(missing());
    let world = World::new(2);
    for address in families() {
        let (sender, mut told) = Told::channel();
        world.on(0, async || {
            let floating = FloatingAddress::new(config(address), sender);
            verb(&floating, Verb::Start).await.unwrap();
            let other = world.mac(1);
            let world = &world;
            // The other host claims it without asking, and goes on telling everybody.
            let claim = std::thread::scope(|scope| {
                scope
                    .spawn(move || {
                        let (sender, _told) = Told::channel();
                        world.on(1, async || {
                            let mut rude = AddressConfig { probe: false, ..config(address) };
                            rude.timers.announce_interval = Duration::from_millis(20);
                            let rude = FloatingAddress::new(rude, sender);
                            verb(&rude, Verb::Start).await.unwrap();
                            tokio::time::sleep(Duration::from_millis(200)).await;
                            verb(&rude, Verb::Stop).await.unwrap();
                        });
                    })
                    .join()
            });
            claim.unwrap();
            let alarm = told.alarm("claims").await;
            assert!(alarm.contains(&other) && alarm.contains(&address.to_string()), "{alarm}");
            verb(&floating, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn the_ping_list_tells_whether_the_network_is_there() {
    or_skip!(missing());
    let world = World::new(2);
    for (address, there, nobody) in [(v4(50), v4(2), v4(77)), (v6(50), v6(2), v6(0x77))] {
        let (sender, mut told) = Told::channel();
        world.on(0, async || {
            let mut config = AddressConfig { ping: vec![nobody, there], link_check: false, ..config(address) };
            config.timers.ping_wait = Duration::from_millis(100);
            config.timers.ping_tries = 4;
            config.timers.ping_interval = Duration::from_millis(100);
            let floating = FloatingAddress::new(config.clone(), sender);
            verb(&floating, Verb::Start).await.unwrap();
            // The kernel takes a moment until a new, or replugged, interface of the other host speaks IPv6.
            let began = Instant::now();
            while let Err(trouble) = verb(&floating, Verb::Monitor).await {
                assert!(began.elapsed() < TIME_MAX, "{trouble}");
            }
            world.cable(1, false);
            let failure = told.failed("answered").await;
            assert!(failure.contains(&nobody.to_string()), "{failure}");
            let trouble = verb(&floating, Verb::Monitor).await.unwrap_err();
            assert!(trouble.reason.contains("in 4 tries"), "{trouble}");
            world.cable(1, true);
            told.repaired("answers again").await;
            verb(&floating, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn everybody_can_be_asked_in_place_of_a_list() {
    or_skip!(missing());
    let world = World::new(2);
    let answers = world.on(1, async || std::fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts", "0").is_ok());
    for address in families() {
        if address.is_ipv4() && !answers {
            eprintln!("SKIPPED: hosts can't be made to answer a broadcast here");
            continue;
        }
        let (sender, _told) = Told::channel();
        world.on(0, async || {
            let config = AddressConfig { ping_broadcast: true, link_check: false, ..config(address) };
            let floating = FloatingAddress::new(config, sender);
            verb(&floating, Verb::Start).await.unwrap();
            verb(&floating, Verb::Monitor).await.unwrap();
            verb(&floating, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn an_interface_that_vanishes_is_a_failure_and_its_return_a_repair() {
    or_skip!(missing());
    let world = World::new(2);
    let address = v4(50);
    let (sender, mut told) = Told::channel();
    world.on(0, async || {
        let mut config = AddressConfig { interface: Some("eth0".into()), ..config(address) };
        config.timers.link_grace = Duration::from_millis(20);
        let floating = FloatingAddress::new(config, sender);
        verb(&floating, Verb::Start).await.unwrap();
        world.ip(0, &["link", "delete", "eth0"]);
        told.failed("there is no interface eth0").await;
        assert_eq!(verb(&floating, Verb::Monitor).await.unwrap_err().kind, TroubleKind::Environment);
        world.plug_in(0);
        told.repaired("is well again").await;
        assert!(world.has(0, address));
        verb(&floating, Verb::Stop).await.unwrap();
        assert!(!world.has(0, address));
    });
}

#[test]
fn an_interface_deleted_in_the_middle_of_a_claim_is_named() {
    or_skip!(missing());
    let world = World::new(1);
    let (sender, _told) = Told::channel();
    world.on(0, async || {
        let config = AddressConfig { interface: Some("eth0".into()), ..config(v4(50)) };
        let floating = FloatingAddress::new(config, sender);
        // The probe takes longer than this.
        let delete = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            world.ip(0, &["link", "delete", "eth0"]);
        };
        let (claimed, ()) = tokio::join!(verb(&floating, Verb::Start), delete);
        let trouble = claimed.unwrap_err();
        assert!(trouble.to_string().contains("eth0"), "{trouble}");
        assert_ne!(trouble.kind, TroubleKind::StopFailed);
        verb(&floating, Verb::Stop).await.unwrap();
    });
}

#[test]
fn what_a_dead_daemon_left_is_known_and_removed() {
    or_skip!(missing());
    let world = World::new(1);
    for (address, other) in [(v4(50), v4(51)), (v6(50), v6(51))] {
        world.on(0, async || {
            let (sender, _told) = Told::channel();
            let floating = FloatingAddress::new(config(address), sender.clone());
            verb(&floating, Verb::Start).await.unwrap();
            verb(&FloatingAddress::new(config(other), sender.clone()), Verb::Start).await.unwrap();
            // Dropped without a stop: as a crash leaves it.
            drop(floating);
            let found: Vec<IpAddr> = left_behind().await.unwrap().iter().map(|own| own.address).collect();
            assert!(found.contains(&address) && found.contains(&other) && found.len() == 2, "{found:?}");
            let removed = remove_left_behind(&[address, v4(1), v4(60)]).await.unwrap();
            assert_eq!(removed.iter().map(|own| own.address).collect::<Vec<_>>(), [address]);
            assert!(!world.has(0, address) && world.has(0, other) && world.has(0, v4(1)));
            // The one that goes on here is adopted.
            let adopting = FloatingAddress::new(config(other), sender);
            assert_eq!(state(&adopting).await.0, State::Broken, "nobody watches it");
            verb(&adopting, Verb::Check).await.unwrap();
            verb(&adopting, Verb::Start).await.unwrap();
            assert_eq!(state(&adopting).await.0, State::Started);
            verb(&adopting, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn a_permanent_address_is_no_floating_one() {
    or_skip!(missing());
    let world = World::new(1);
    world.ip(0, &["address", "add", "10.99.0.50/24", "dev", "eth0"]);
    world.on(0, async || {
        let (sender, _told) = Told::channel();
        let floating = FloatingAddress::new(config(v4(50)), sender.clone());
        let trouble = verb(&floating, Verb::Check).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::Config);
        assert!(trouble.reason.contains("is a permanent address of eth0"), "{trouble}");
        let elsewhere = FloatingAddress::new(config("192.168.7.7".parse().unwrap()), sender);
        let trouble = verb(&elsewhere, Verb::Check).await.unwrap_err();
        assert!(trouble.next.contains("eth0 10.99.0.0/24"), "{trouble}");
    });
}

#[test]
fn outgoing_traffic_can_use_the_floating_address() {
    or_skip!(missing());
    let world = World::new(2);
    world.ip(0, &["route", "add", "default", "via", "10.99.0.2"]);
    let before = world.ip(0, &["route", "show"]);
    let source = |to: &str| {
        let shown = world.ip(0, &["route", "get", to]);
        shown.split("src ").nth(1).unwrap().split_whitespace().next().unwrap().to_string()
    };
    world.on(0, async || {
        let (sender, mut told) = Told::channel();
        let floating = FloatingAddress::new(AddressConfig { source: true, ..config(v4(50)) }, sender);
        assert_eq!((source("10.99.0.2"), source("8.8.8.8")), ("10.99.0.1".into(), "10.99.0.1".into()));
        verb(&floating, Verb::Start).await.unwrap();
        assert_eq!((source("10.99.0.2"), source("8.8.8.8")), ("10.99.0.50".into(), "10.99.0.50".into()));
        // The kernel drops routes with their source address; the operator's own are untouched.
        world.ip(0, &["address", "delete", "10.99.0.50/24", "dev", "eth0"]);
        told.repaired("is back").await;
        assert_eq!((source("10.99.0.2"), source("8.8.8.8")), ("10.99.0.50".into(), "10.99.0.50".into()));
        verb(&floating, Verb::Stop).await.unwrap();
        assert_eq!(world.ip(0, &["route", "show"]), before);
    });
}

#[test]
fn an_address_is_left_out_where_the_configuration_says_so() {
    or_skip!(missing());
    let world = World::new(1);
    world.on(0, async || {
        let (sender, _told) = Told::channel();
        let skipped = FloatingAddress::new(AddressConfig { skip: true, ..config(v4(50)) }, sender);
        for each in [Verb::Check, Verb::Start, Verb::Monitor, Verb::Stop] {
            verb(&skipped, each).await.unwrap();
        }
        assert!(!world.has(0, v4(50)));
        assert_eq!(state(&skipped).await.0, State::Skipped);
    });
}

#[test]
fn times_are_replaced_while_it_runs() {
    or_skip!(missing());
    let world = World::new(2);
    let address = v4(50);
    world.on(0, async || {
        let (sender, _told) = Told::channel();
        let mut config = config(address);
        config.timers.announce_count = 1;
        config.timers.announce_refresh = Duration::from_secs(3600);
        let floating = FloatingAddress::new(config.clone(), sender);
        verb(&floating, Verb::Start).await.unwrap();
        world.remember(1, address, "02:00:00:00:00:99");
        let nonsense = AddressTimers { look_interval: Duration::ZERO, ..config.timers.clone() };
        assert_eq!(floating.set_timers(nonsense).unwrap_err().kind, TroubleKind::Config);
        floating.set_timers(AddressTimers { announce_refresh: Duration::from_millis(20), ..config.timers }).unwrap();
        until("the neighbour learns it", || world.neighbour(1, address) == Some(world.mac(0))).await;
        verb(&floating, Verb::Stop).await.unwrap();
    });
}

#[test]
fn a_network_that_may_have_healed_is_told_again() {
    or_skip!(missing());
    let world = World::new(2);
    for address in families() {
        world.on(0, async || {
            let (sender, _told) = Told::channel();
            let mut config = config(address);
            (config.timers.announce_count, config.timers.announce_refresh) = (1, Duration::ZERO);
            let floating = FloatingAddress::new(config, sender);
            verb(&floating, Verb::Start).await.unwrap();
            world.remember(1, address, "02:00:00:00:00:99");
            floating.announce();
            until("the neighbour learns it", || world.neighbour(1, address) == Some(world.mac(0))).await;
            verb(&floating, Verb::Stop).await.unwrap();
        });
    }
}

#[test]
fn a_thousand_other_addresses_are_no_hindrance() {
    or_skip!(missing());
    let world = World::new(1);
    let batch: String =
        (0..1000).map(|n| format!("address add 10.99.{}.{}/24 dev eth0\n", 1 + n / 250, 1 + n % 250)).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), batch).unwrap();
    world.ip(0, &["-batch", file.path().to_str().unwrap()]);
    world.on(0, async || {
        let (sender, mut told) = Told::channel();
        let floating = FloatingAddress::new(config(v4(50)), sender);
        let began = Instant::now();
        verb(&floating, Verb::Start).await.unwrap();
        println!("claim beside a thousand addresses: {:?}", began.elapsed());
        world.ip(0, &["address", "delete", "10.99.0.50/24", "dev", "eth0"]);
        told.repaired("is back").await;
        verb(&floating, Verb::Stop).await.unwrap();
        assert!(!world.has(0, v4(50)));
    });
}

#[test]
fn without_rights_it_is_said_which_are_missing() {
    or_skip!(missing());
    let world = World::new(1);
    world.on(0, async || {
        let (sender, _told) = Told::channel();
        let floating = FloatingAddress::new(config(v4(50)), sender);
        // This thread alone gives up its rights: it ends with the test.
        give_up_rights();
        for each in [Verb::Check, Verb::Start] {
            let trouble = verb(&floating, each).await.unwrap_err();
            assert_eq!(trouble.kind, TroubleKind::Environment);
            assert!(trouble.to_string().contains("CAP_NET_ADMIN and CAP_NET_RAW"), "{trouble}");
        }
        // There is nothing to take away, so a stop succeeds.
        verb(&floating, Verb::Stop).await.unwrap();
    });
}

/// Drops every right of the calling thread, as capset does for a thread.
fn give_up_rights() {
    let header = [0x2008_0522u32, 0];
    let none = [0u32; 6];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0, "a thread may give up its rights");
}
