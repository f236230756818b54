//! The volumes of one group on this node, taken together: facts of all of them, orders to all of them.
//!
//! | fact | of several volumes |
//! |---|---|
//! | role | primary when any is; mixed when another is not |
//! | disk, memory, split, suspect | the worst |
//! | connected, in sync, source, peer outdated | all of them |
//! | lossy, wants solo, peer slow, wants to qualify, wants the peer only | any of them |
//! | epoch, cache epoch | the highest |
//! | generation | the first volume's |
//!
//! An order goes to every volume it concerns and is done when all of them have done it; the first that fails names the
//! reason, and the answer comes when the last one has answered.

use crate::base::state::{DiskState, Role};
use crate::base::volume::{Facts, Order};
use std::collections::HashMap;

/// What carries orders to one volume.
pub trait Volume {
    /// Its name.
    fn name(&self) -> &str;
    /// Orders something; the answer comes by [`Volumes::order_done`].
    fn order(&self, id: u64, order: Order);
}

/// The volumes of a group.
#[derive(Debug)]
pub struct Volumes<V> {
    volumes: Vec<V>,
    facts: Vec<Option<Facts>>,
    orders: HashMap<u64, Under>,
}

/// An order under way.
#[derive(Debug)]
struct Under {
    /// Volumes that have not answered, by index.
    left: Vec<usize>,
    failed: Option<String>,
}

impl<V: Volume> Volumes<V> {
    /// These volumes; nothing is known of them yet.
    pub fn new(volumes: Vec<V>) -> Volumes<V> {
        let facts = vec![None; volumes.len()];
        Volumes { volumes, facts, orders: HashMap::new() }
    }

    /// The volumes.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.volumes.iter()
    }

    /// What is known of the volume has changed; what is known of all of them, if every one has told.
    pub fn learn(&mut self, name: &str, facts: Facts) -> Option<Facts> {
        let index = self.index(name)?;
        self.facts[index] = Some(facts);
        combine(&self.facts)
    }

    /// Orders something of every volume it concerns. The answer, if none has anything to do.
    pub fn order(&mut self, id: u64, order: Order) -> Option<Result<(), String>> {
        let concerned: Vec<usize> = (0..self.volumes.len()).filter(|index| self.concerns(*index, order)).collect();
        if concerned.is_empty() {
            return Some(Ok(()));
        }
        self.orders.insert(id, Under { left: concerned.clone(), failed: None });
        for index in concerned {
            self.volumes[index].order(id, order);
        }
        None
    }

    /// A volume has carried out an order, or could not. The answer, if it was the last one.
    pub fn order_done(&mut self, name: &str, id: u64, result: Result<(), String>) -> Option<Result<(), String>> {
        let index = self.index(name)?;
        let under = self.orders.get_mut(&id)?;
        under.left.retain(|left| *left != index);
        if let Err(why) = result {
            under.failed.get_or_insert(format!("volume {name}: {why}"));
        }
        if !under.left.is_empty() {
            return None;
        }
        let under = self.orders.remove(&id)?;
        Some(under.failed.map_or(Ok(()), Err))
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.volumes.iter().position(|volume| volume.name() == name)
    }

    /// Whether a volume has anything to do with an order: some answer what only one of several waits for.
    fn concerns(&self, index: usize, order: Order) -> bool {
        let Some(facts) = &self.facts[index] else { return true };
        match order {
            Order::Qualify => facts.wants_qualify,
            Order::AllowPeerOnly => facts.wants_peer_only,
            _ => true,
        }
    }
}

fn combine(facts: &[Option<Facts>]) -> Option<Facts> {
    let known: Vec<&Facts> = facts.iter().flatten().collect();
    let (first, complete) = (known.first()?, known.len() == facts.len());
    let all = |holds: fn(&Facts) -> bool| known.iter().all(|facts| holds(facts));
    let any = |holds: fn(&Facts) -> bool| known.iter().any(|facts| holds(facts));
    complete.then(|| Facts {
        role: if any(|facts| facts.role == Role::Primary) { Role::Primary } else { Role::Secondary },
        mixed: any(|facts| facts.role == Role::Primary) && any(|facts| facts.role == Role::Secondary),
        disk: known.iter().map(|facts| facts.disk).min_by_key(|disk| worth(*disk)).unwrap_or_default(),
        connected: all(|facts| facts.connected),
        // All of them are with the same daemon, or they are not all connected.
        session_with: first.session_with.filter(|_| known.iter().all(|facts| facts.session_with == first.session_with)),
        in_sync: all(|facts| facts.in_sync),
        source: all(|facts| facts.source),
        lossy: any(|facts| facts.lossy),
        wants_solo: any(|facts| facts.wants_solo),
        peer_slow: any(|facts| facts.peer_slow),
        wants_qualify: any(|facts| facts.wants_qualify),
        wants_peer_only: any(|facts| facts.wants_peer_only),
        peer_outdated: all(|facts| facts.peer_outdated),
        memory: known.iter().map(|facts| facts.memory).min().unwrap_or(first.memory),
        suspect: any(|facts| facts.suspect),
        split: any(|facts| facts.split),
        generation: first.generation,
        seen_epoch: known.iter().map(|facts| facts.seen_epoch).max().unwrap_or_default(),
        cache_epoch: known.iter().map(|facts| facts.cache_epoch).max().unwrap_or_default(),
    })
}

/// The worse a disk, the lower.
fn worth(disk: DiskState) -> u8 {
    match disk {
        DiskState::Diskless => 0,
        DiskState::New => 1,
        DiskState::Inconsistent => 2,
        DiskState::Outdated => 3,
        DiskState::UpToDate => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::state::Continuity;
    use std::cell::RefCell;
    use std::rc::Rc;

    type Orders = Rc<RefCell<Vec<(&'static str, u64, Order)>>>;

    struct Told(&'static str, Orders);

    impl Volume for Told {
        fn name(&self) -> &str {
            self.0
        }

        fn order(&self, id: u64, order: Order) {
            self.1.borrow_mut().push((self.0, id, order));
        }
    }

    fn facts() -> Facts {
        Facts {
            role: Role::Primary,
            mixed: false,
            disk: DiskState::UpToDate,
            connected: true,
            session_with: None,
            in_sync: true,
            lossy: false,
            source: true,
            wants_solo: false,
            peer_slow: false,
            wants_qualify: false,
            wants_peer_only: false,
            peer_outdated: false,
            memory: Continuity::SameProcess,
            suspect: false,
            split: false,
            generation: Default::default(),
            seen_epoch: Default::default(),
            cache_epoch: 0,
        }
    }

    fn pair() -> (Volumes<Told>, Orders) {
        let orders = Orders::default();
        (Volumes::new(vec![Told("a", orders.clone()), Told("b", orders.clone())]), orders)
    }

    #[test]
    fn several_volumes_are_as_good_as_the_worst() {
        let (mut volumes, _) = pair();
        assert_eq!(volumes.learn("a", facts()), None, "the other has not told");
        assert_eq!(volumes.learn("b", facts()), Some(facts()));
        let worse = Facts { role: Role::Secondary, disk: DiskState::Inconsistent, in_sync: false, ..facts() };
        let all = volumes.learn("b", Facts { lossy: true, cache_epoch: 3, ..worse }).expect("both have told");
        let expected = Facts { role: Role::Primary, mixed: true, lossy: true, cache_epoch: 3, ..worse };
        assert_eq!(all, expected);
    }

    #[test]
    fn an_order_is_done_when_all_have_done_it_and_names_the_one_that_failed() {
        let (mut volumes, orders) = pair();
        volumes.learn("a", facts());
        volumes.learn("b", Facts { wants_qualify: true, ..facts() });
        assert_eq!(volumes.order(1, Order::Quiesce), None);
        assert_eq!(volumes.order_done("b", 1, Err("no".into())), None, "the other is still at it");
        assert_eq!(volumes.order_done("a", 1, Ok(())), Some(Err("volume b: no".into())));
        assert_eq!(volumes.order_done("a", 1, Ok(())), None, "an answer too many");
        assert_eq!(volumes.order(2, Order::AllowPeerOnly), Some(Ok(())), "nobody waits for it");
        orders.borrow_mut().clear();
        assert_eq!(volumes.order(3, Order::Qualify), None);
        assert_eq!(*orders.borrow(), [("b", 3, Order::Qualify)], "only who waits for it");
    }
}
