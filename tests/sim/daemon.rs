//! The daemon around a core: turns, effects, sessions. What `runtime::shard` does for the real disks and sockets, done for
//! the simulated ones, and every sentence of the core's contract with its runtime checked on the way.

use super::config::Profile;
use super::nemesis::Heal;
use super::node::{Admitted, Ask, Asked, NAMES, Work};
use super::world::{Event, World};
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::ids::{BufferId, CommandId, RequestId, SessionId};
use twinblock::base::range::BLOCK;
use twinblock::base::request::{Action, Outcome, Request};
use twinblock::logic::mirror::interface::{Effect, Input, Note};
use twinblock::wire::frame::Frame;
use twinblock::wire::message::Message;

/// Inputs a core gets at most before it settles.
const BATCH_MAX: u64 = 16;
/// Effects of one turn after which a core is said to have lost its measure.
const EFFECTS_MAX: usize = 100_000;
/// Turns at one moment after which a core is said to spin.
const SPIN_MAX: u32 = 10_000;

impl World {
    /// One turn of a node's daemon.
    pub fn turn(&mut self, node: usize, life: u64) {
        let (now, clock) = (self.now, self.clock(node));
        let mut batch = self.random.between(1, BATCH_MAX);
        let Some(process) = self.nodes[node].process.as_mut().filter(|p| p.life == life && p.turns()) else { return };
        if process.turn_at.is_some_and(|at| at <= now) {
            process.turn_at = None;
        }
        let mut effects = Vec::new();
        let (mut busy, mut heard) = (false, false);
        process.told_of_receipt = false;
        while batch > 0 {
            let Some(input) = process.inbox.pop_front() else { break };
            batch -= 1;
            busy = true;
            if !is_chatter(&input) {
                self.log.say(|| format!("{:<5} <- {input:?}", NAMES[node]));
            }
            heard |= matches!(input, Input::Frame { .. });
            let receipt = |frame: &Frame| matches!(frame, Frame::Control(Message::Received { .. }));
            process.told_of_receipt |= matches!(&input, Input::Frame { frame, .. } if receipt(frame));
            process.mirror.handle(clock, input, &mut effects);
        }
        let due = process.mirror.next_deadline().is_some_and(|deadline| deadline <= clock);
        if due {
            busy = true;
            process.mirror.handle(clock, Input::Tick, &mut effects);
        }
        busy |= self.admit(node, batch, &mut effects);
        let process = self.nodes[node].process.as_mut().expect("alive above");
        if !busy {
            self.schedule_tick(node);
            return;
        }
        process.mirror.settle(clock, &mut effects);
        process.mirror.check();
        assert!(effects.len() < EFFECTS_MAX, "{} wants {} things done in one turn", NAMES[node], effects.len());
        if heard {
            self.link_heard(node);
        }
        self.carry_out(node, effects);
        self.tell_facts(node);
        self.after_turn(node);
    }

    /// Hands over what clients ask for, as long as the core takes it.
    fn admit(&mut self, node: usize, batch: u64, effects: &mut Vec<Effect>) -> bool {
        let (now, clock) = (self.now, self.clock(node));
        let process = self.nodes[node].process.as_mut().expect("alive");
        let mut admitted = false;
        for _ in 0..batch {
            if !process.mirror.can_admit() || process.mirror.serving().is_none() || process.stopping {
                break;
            }
            let Some(ask) = process.connections.values_mut().find_map(|connection| connection.socket.pop_front())
            else {
                break;
            };
            let id = RequestId(process.fresh_id());
            let (action, buffer) = action_of(process, &ask);
            process.requests.insert(id, Admitted { ask, buffer, at: now });
            let input = Input::Request(Request { id, action });
            self.log.say(|| format!("{:<5} <- {input:?} = op {} of client {}", NAMES[node], ask.op, ask.client));
            process.mirror.handle(clock, input, effects);
            admitted = true;
        }
        admitted
    }

    fn after_turn(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let more = !process.inbox.is_empty()
            || (process.mirror.can_admit() && process.connections.values().any(|c| !c.socket.is_empty()));
        if more && process.mirror.serving().is_some() || !process.inbox.is_empty() {
            self.wake(node, Duration::from_micros(20));
        }
        self.watch_cache_epoch(node);
        self.watch_size(node);
        self.schedule_tick(node);
        self.check_after_turn(node);
    }

    fn schedule_tick(&mut self, node: usize) {
        let (now, clock) = (self.now, self.nodes[node].clock);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(deadline) = process.mirror.next_deadline() else { return };
        let Some(due) = clock.when(deadline) else { return };
        let at = due.max(now + Duration::from_nanos(500));
        if process.tick_at.is_some_and(|tick| tick > now && tick <= at) {
            return;
        }
        if due <= now {
            process.spins += 1;
            assert!(process.spins < SPIN_MAX, "the core's deadline {deadline:?} never moves on");
        } else {
            process.spins = 0;
        }
        process.tick_at = Some(at);
        let life = process.life;
        self.at(at, Event::Turn { node, life });
    }

    /// A changed cache epoch is a declared loss: clients of the old one are cut (rule R9).
    fn watch_cache_epoch(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(serving) = process.mirror.serving() else { return };
        let known = self.nodes.iter().filter(|n| n.line == self.nodes[node].line).map(|n| n.cache_epoch).max();
        if known.is_some_and(|known| serving.cache_epoch > known) {
            self.stats.cache_losses += 1;
            let mut lost = [0, 1].map(|index| self.loss_of(index));
            if self.config.takes_over_behind() {
                // What only the owner of before held, flushed or not.
                lost[1 - node] = self.now;
            }
            let [a, b] = &self.nodes;
            let there = |sector| [a.disk.values(sector as u64), b.disk.values(sector as u64)].concat();
            self.history.cache_lost(self.nodes[node].line, self.now, lost, there);
            self.log.say(|| format!("{:<5} declares cache epoch {}", NAMES[node], serving.cache_epoch));
        }
        self.nodes[node].cache_epoch = self.nodes[node].cache_epoch.max(serving.cache_epoch);
        let process = self.nodes[node].process.as_mut().expect("just seen");
        let stale: Vec<usize> = process
            .connections
            .iter()
            .filter(|(_, c)| c.cache_epoch != serving.cache_epoch)
            .map(|(id, _)| *id)
            .collect();
        for client in stale {
            self.cut_client(node, client);
        }
    }

    /// Carries effects out. Their order carries no promise, except among the frames of a session and among records.
    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        let (last, first): (Vec<Effect>, Vec<Effect>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Release { .. }));
        for effect in first.into_iter().chain(last) {
            match &effect {
                Effect::Send { frame: Frame::Control(Message::Ping { .. } | Message::Pong { .. }), .. } => {}
                Effect::Send { frame: Frame::Control(message), .. } => {
                    self.log.say(|| format!("{:<5} -> {message:?}", NAMES[node]));
                }
                Effect::Release { .. } => {}
                _ => self.log.say(|| format!("{:<5} -> {effect:?}", NAMES[node])),
            }
            self.carry_out_one(node, effect);
            if self.nodes[node].process.is_none() {
                return;
            }
        }
    }

    fn carry_out_one(&mut self, node: usize, effect: Effect) {
        let life = self.nodes[node].process.as_ref().expect("alive").life;
        match effect {
            Effect::Disk { op, io } => self.submit_disk(node, op, io),
            Effect::Persist { op, record } => self.submit_persist(node, op, record),
            Effect::Archive { op, work } => self.submit_archive(node, op, work),
            Effect::Send { session, frame } => self.send(node, session, frame),
            Effect::Disconnect { session, reason, .. } => self.disconnect(node, session, reason),
            Effect::ProbePeer => {
                self.process_of(node).probes += 1;
                let delay = self.random.span(Duration::from_micros(100), Duration::from_millis(20));
                self.after(delay, Event::Probed { node, life });
            }
            Effect::OrderDone { id, result } => {
                assert!(self.group().is_some(), "no group gives orders");
                self.tell_order_done(node, id, result);
            }
            Effect::Reply { request } => self.reply(node, request.id, request.outcome, None),
            Effect::ReplyApart { request, bytes } => self.reply(node, request.id, request.outcome, Some(bytes)),
            Effect::Release { buffer } => {
                self.process_of(node).buffers.release(buffer);
            }
            Effect::Copy { from, to } => {
                let buffers = &mut self.process_of(node).buffers;
                let bytes = from.map_or_else(|| vec![0; buffers.get(to).len()], |from| buffers.get(from).to_vec());
                buffers.get_mut(to).copy_from_slice(&bytes);
            }
            Effect::CutClients { reason } => {
                let clients: Vec<usize> = self.process_of(node).connections.keys().copied().collect();
                self.log.say(|| format!("{:<5} cuts {} clients: {reason}", NAMES[node], clients.len()));
                for client in clients {
                    self.cut_client(node, client);
                }
            }
            Effect::CloseDisk => {
                let process = self.process_of(node);
                assert!(std::mem::replace(&mut process.disk_open, false), "the disk is closed twice");
                self.buffer_lost(node);
            }
            Effect::CommandDone { id, outcome } => self.command_done(node, id, outcome),
            Effect::Stopped => self.stopped(node),
            Effect::Note(note) => self.noted(node, note),
        }
    }

    /// The daemon of this node, which runs.
    pub fn process_of(&mut self, node: usize) -> &mut super::node::Process {
        self.nodes[node].process.as_mut().expect("its daemon runs")
    }

    fn send(&mut self, node: usize, session: SessionId, frame: Frame) {
        let process = self.nodes[node].process.as_mut().expect("alive");
        if process.session != Some(session) {
            return;
        }
        self.check_frame(node, &frame);
        if let Frame::Control(message) = &frame {
            self.check_message(node, message);
            if *message == Message::Adopted {
                // Whatever becomes of the session: the target has it all, for good.
                self.both_hold_everything();
            }
        }
        let process = self.nodes[node].process.as_ref().expect("alive");
        let epoch = process.mirror.epoch();
        self.link.stage(node, session, epoch, frame, &process.buffers);
        let delay = self.random.span(Duration::from_nanos(500), Duration::from_micros(30));
        self.after(delay, Event::Transmit { node, session });
    }

    /// Staged frames go out.
    pub fn transmit(&mut self, node: usize, session: SessionId) {
        let arrivals = self.link.transmit(node, session, self.now, &mut self.random);
        for at in arrivals {
            self.at(at, Event::Arrive { node: 1 - node, session });
        }
    }

    /// Segments arrive at a node.
    pub fn arrive(&mut self, node: usize, session: SessionId) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if !process.turns() {
            process.arrivals_waiting = true;
            return;
        }
        let (frames, error) = self.link.arrive(node, session, self.now, &mut process.buffers);
        for frame in frames {
            self.watch_frame(node, &frame);
            self.deliver(node, Input::Frame { session, frame });
        }
        if let Some(error) = error {
            self.session_ends(node, session, error.to_string());
        }
    }

    fn disconnect(&mut self, node: usize, session: SessionId, reason: String) {
        let arrivals = self.link.transmit(node, session, self.now, &mut self.random);
        for at in arrivals {
            self.at(at, Event::Arrive { node: 1 - node, session });
        }
        if let Some(session) = self.link.sessions.get_mut(&session) {
            session.pipes[node].closed = true;
        }
        let delay = self.random.span(Duration::from_micros(10), Duration::from_millis(5));
        self.after(delay, Event::SessionEnds { node, session, reason });
    }

    /// One end of a session is closed: its node is told, and the other end will notice, if anything gets through.
    pub fn session_ends(&mut self, node: usize, session: SessionId, reason: String) {
        if !self.link.close_end(node, session) {
            return;
        }
        self.log.say(|| format!("{:<5} session {session} ends: {reason}", NAMES[node]));
        if let Some(process) = self.nodes[node].process.as_mut().filter(|p| p.session == Some(session)) {
            process.session = None;
            process.in_flight.clear();
            process.inbox.push_back(Input::LinkDown { session, reason });
            self.wake(node, Duration::from_micros(50));
        }
        self.other_end_notices(1 - node, session);
        self.connect_soon();
    }

    /// An end whose other end is closed gets to know it, when the network lets it.
    pub fn other_end_notices(&mut self, node: usize, session: SessionId) {
        let waiting = self.link.sessions.get(&session).is_some_and(|session| session.open[node]);
        if waiting && self.link.passes() && self.nodes[1 - node].powered {
            let delay = self.random.span(Duration::from_micros(50), Duration::from_millis(300));
            let newest = self.link.sessions[&session].pipes[1 - node].newest_arrival();
            let at = (self.now + delay).max(newest + Duration::from_micros(1));
            self.at(at, Event::SessionEnds { node, session, reason: "closed by the peer".into() });
        }
    }

    /// The daemons try to connect.
    pub fn connect(&mut self) {
        let ready = self.both_up() && self.link.passes() && !self.disconnected;
        if !ready || self.nodes.iter().all(|node| node.process.as_ref().is_some_and(|p| p.session.is_some())) {
            return;
        }
        let half_open: Vec<(usize, SessionId)> =
            (0..2).filter_map(|node| self.link.session_of(node).map(|session| (node, session))).collect();
        if !half_open.is_empty() {
            for (node, session) in half_open {
                self.session_ends(node, session, "replaced by a new connection".into());
            }
            return;
        }
        let session = self.link.connect();
        self.log.say(|| format!("session {session} begins"));
        for node in 0..2 {
            self.process_of(node).session = Some(session);
            self.deliver(node, Input::LinkUp { session });
        }
    }

    /// A probe of the peer's addresses has its answer.
    pub fn probed(&mut self, node: usize, life: u64) {
        if !self.alive(node, life) {
            return;
        }
        let peer = &self.nodes[1 - node];
        let refused = self.link.passes() && peer.powered && peer.process.is_none();
        self.process_of(node).probes -= 1;
        self.deliver(node, Input::PeerProbed { refused });
    }

    /// A request is settled. A read's bytes are in its own buffer, or `apart`, where the core keeps that for itself.
    fn reply(&mut self, node: usize, id: RequestId, outcome: Outcome, apart: Option<Option<BufferId>>) {
        let process = self.nodes[node].process.as_mut().expect("alive");
        let admitted = process.requests.remove(&id);
        let admitted = admitted.unwrap_or_else(|| panic!("{} answers {id:?} twice or unasked", NAMES[node]));
        let ask = admitted.ask;
        let bytes = match (ask.work, admitted.buffer) {
            (Work::Read(range), Some(buffer)) => {
                let bytes = match apart {
                    None => process.buffers.release(buffer),
                    Some(Some(other)) => process.buffers.release(other),
                    Some(None) => vec![0; process.buffers.get(buffer).len()],
                };
                let at = (range.offset % BLOCK) as usize;
                Some(bytes[at..at + range.length as usize].to_vec())
            }
            _ => None,
        };
        let current = process.connections.get(&ask.client).is_some_and(|c| c.serial == ask.connection);
        if outcome.is_ok() {
            self.check_answer(node, &ask, admitted.at);
        }
        if current {
            self.client_answered(node, ask, outcome, bytes);
        }
    }

    /// Gives a command to a node's daemon.
    pub fn command(&mut self, node: usize, command: Command) -> Option<CommandId> {
        let process = self.nodes[node].process.as_mut()?;
        let id = CommandId(process.fresh_id());
        process.commands.insert(id, Asked::Command(command.clone()));
        self.deliver(node, Input::Command { id, command });
        Some(id)
    }

    fn command_done(&mut self, node: usize, id: CommandId, outcome: CommandOutcome) {
        let asked = self.process_of(node).commands.remove(&id);
        let asked = asked.unwrap_or_else(|| panic!("{} ends {id:?} twice or unasked", NAMES[node]));
        self.log.say(|| format!("{:<5} {asked:?}: {outcome:?}", NAMES[node]));
        match asked {
            Asked::Command(command) => self.command_ended(node, command, outcome),
            Asked::Attach => self.attach_ended(node, &outcome),
        }
    }

    fn stopped(&mut self, node: usize) {
        let process = self.nodes[node].process.as_ref().expect("alive");
        assert!(process.stopping, "{} stopped unasked", NAMES[node]);
        assert!(process.persists.is_empty(), "it stopped with records under way");
        self.kill(node, "stopped in order");
        if self.active && self.config.profile != Profile::Scripted {
            self.heal_later(Heal::Start(node));
        }
    }

    /// The daemon's process ends, now.
    pub fn kill(&mut self, node: usize, why: &str) {
        let Some(process) = self.nodes[node].kill(self.now, &mut self.random) else { return };
        self.log.say(|| format!("{:<5} process ends: {why}", NAMES[node]));
        self.clock_goes_on(node);
        self.refusals_after_kill(node);
        self.bury(node, process);
    }

    /// An asynchronous owner is without its disk, and perhaps gone: what it had acknowledged and not yet brought to the peer is
    /// lost with it, which is what the mode's buffer may cost.
    fn buffer_lost(&mut self, node: usize) {
        if self.config.flushes_here_only() {
            self.history.buffer_lost(self.nodes[node].line);
        }
    }

    /// What follows from the end of a process: its sockets close.
    pub fn bury(&mut self, node: usize, process: super::node::Process) {
        if !process.disk_open && process.mirror.serving().is_some() {
            self.buffer_lost(node);
        }
        // What only a memory held may be gone.
        self.told.clear();
        for (client, connection) in &process.connections {
            self.clients[*client].lost(connection.serial);
        }
        if let Some(session) = self.link.session_of(node) {
            self.link.lose_transit(session, &mut self.random);
            self.link.close_end(node, session);
            self.other_end_notices(1 - node, session);
        }
        self.forced_unheard(node);
        self.fork_if_begun(node);
        self.nodes[node].lasting.forking = None;
        self.operator.daemon_ended(node);
    }

    fn noted(&mut self, node: usize, note: Note) {
        match &note {
            Note::Joined { .. } => {
                self.stats.joins += 1;
                self.joined(node);
            }
            Note::ResyncBegan { .. } => {
                self.stats.resyncs += 1;
                let source = self.view(node).and_then(|view| view.resync).is_some_and(|resync| resync.source);
                self.check_resync_begins(node, source);
            }
            Note::PeerMisbehaved { what } => panic!("{} says its peer broke the protocol: {what}", NAMES[node]),
            _ => {}
        }
        self.check_note(node, &note);
    }
}

/// Inputs that a timeline does without.
fn is_chatter(input: &Input) -> bool {
    let ping = matches!(input, Input::Frame { frame: Frame::Control(Message::Ping { .. } | Message::Pong { .. }), .. });
    ping || matches!(input, Input::Tick)
}

fn action_of(process: &mut super::node::Process, ask: &Ask) -> (Action, Option<twinblock::base::ids::BufferId>) {
    match ask.work {
        Work::Read(range) => {
            let buffer = process.buffers.insert(vec![0xee; range.aligned_out().length as usize]);
            (Action::Read { range, buffer }, Some(buffer))
        }
        Work::Write { range, value, fua } => {
            let mut bytes = vec![0xee; range.aligned_out().length as usize];
            let at = (range.offset % BLOCK) as usize;
            super::clients::fill_range(value, range, &mut bytes[at..at + range.length as usize]);
            let buffer = process.buffers.insert(bytes);
            (Action::Write { range, buffer, fua }, Some(buffer))
        }
        Work::Zero { range, unmap, fua } => (Action::Zero { range, unmap, fua }, None),
        Work::Flush => (Action::Flush, None),
    }
}
