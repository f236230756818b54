//! What a shard does when the rest of the daemon calls it.

use super::clients::NbdStream;
use super::disk::Disk;
use super::handle::{Call, ShardEvent, ShardView};
use super::persist::Persist;
use super::{Shard, TOKEN_DEVICE, TOKEN_LINK};
use crate::base::command::{Command, CommandOutcome, Refusal};
use crate::base::ids::{CommandId, SessionId};
use crate::base::latency::{Latency, StageView};
use crate::base::range::ByteRange;
use crate::base::state::{DiskState, LinkState};
use crate::base::time::Moment;
use crate::io::disk::OpenedVolume;
use crate::io::ring::DiskFile;
use crate::logic::mirror::interface::Input;
use crate::wire::metadata::record::Loaded;
use std::net::TcpStream;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where the outcome of a command goes.
type Outcomes = oneshot::Sender<CommandOutcome>;

/// Takes an opened disk into use; what its metadata say is for the core.
pub(super) fn take_into_use(opened: OpenedVolume, disk: &mut Disk, persist: &mut Persist) -> Loaded {
    let OpenedVolume { data, metadata, loaded, .. } = opened;
    disk.open(Arc::new(DiskFile::new(data)), loaded.capacity_bytes);
    persist.open(Arc::new(DiskFile::new(metadata.fd)), metadata.writer);
    loaded
}

/// Answers a command; whoever asked may have gone.
pub(super) fn answer(asker: Option<Outcomes>, outcome: CommandOutcome) {
    if let Some(asker) = asker {
        asker.send(outcome).unwrap_or(());
    }
}

impl Shard {
    /// Takes the calls that came in.
    pub(super) fn take_calls(&mut self, now: Moment) {
        for call in self.inbox.take() {
            match call {
                Call::Command(command, asker) => self.take_command(command, asker),
                Call::Latency(asker) => asker.send(self.latency()).unwrap_or(()),
                Call::View(asker) => asker.send(self.view(now)).unwrap_or(()),
                Call::Dirty(max_ranges, asker) => asker.send(self.dirty(max_ranges, now)).unwrap_or(()),
                Call::Attach(opened, asker) => self.take_attach(*opened, asker),
                Call::OfferLink { stream, session, peer } => self.take_link(stream, session, &peer),
                Call::SetDisconnected(disconnected) => self.set_disconnected(disconnected),
                Call::Probed { refused } => self.inputs.push(Input::PeerProbed { refused }),
                Call::Order { id, order } => self.inputs.push(Input::Order { id, order }),
                Call::Permit { until } => self.inputs.push(Input::Permit { until }),
                Call::Archived { number, result } => self.inputs.extend(self.archives.finish(number, result)),
                Call::Address { address, here, done } => {
                    self.clients.set_address(address, here, &mut self.pool, &self.poller);
                    done.send(()).unwrap_or(());
                }
                Call::Reconfigure(settings, times) => {
                    self.mirror.reconfigure(*settings);
                    self.clients.set_times(times);
                }
                Call::AdoptDevice(stream) => {
                    let stream = NbdStream::Device(stream);
                    if let Err(error) = self.clients.adopt(stream, now, &mut self.pool, &self.poller) {
                        tracing::warn!(volume = self.name, "the block device can't be connected: {error}");
                    }
                }
                Call::CloseDevice => self.device.close(&self.poller),
                Call::OpenDevice { server_side, cache_epoch, asker } => {
                    let opened = self.device.open(server_side, cache_epoch, TOKEN_DEVICE, &self.poller);
                    asker.send(opened).unwrap_or(());
                }
                Call::Stop => {
                    self.device.park();
                    // What it has under way is asked again when the next daemon connects it.
                    self.clients.cut_devices("the daemon stops", &mut self.pool, &self.poller);
                    self.inputs.push(Input::Stop);
                }
            }
        }
    }

    fn take_command(&mut self, command: Command, asker: Outcomes) {
        let connected = self.clients.connected_by_themselves();
        if connected > 0 && command == (Command::Demote { force: false }) {
            let clients = if connected == 1 { "1 client is".to_owned() } else { format!("{connected} clients are") };
            let refusal = Refusal::new(
                "clients-connected",
                format!("{} stays primary: {clients} connected to it on this node.", self.name),
                "Disconnect them first (status names them), or use --force, which cuts them off.",
            );
            return answer(Some(asker), CommandOutcome::Refused(refusal));
        }
        let id = self.new_command(asker);
        self.inputs.push(Input::Command { id, command });
    }

    fn take_attach(&mut self, opened: OpenedVolume, asker: Outcomes) {
        if self.disk.is_open() || self.closing_disk {
            let reason = if self.closing_disk { "the disk before is still being closed" } else { "it has a disk" };
            let refusal = Refusal::new(
                "disk-attached",
                format!("No disk is attached to {}: {reason}.", self.name),
                "Detach the disk first, and wait until status shows the volume as diskless.",
            );
            return answer(Some(asker), CommandOutcome::Refused(refusal));
        }
        let loaded = Box::new(take_into_use(opened, &mut self.disk, &mut self.persist));
        let id = self.new_command(asker);
        self.attaching = Some(id);
        self.disk_reason = None;
        self.inputs.push(Input::Attach { id, loaded });
    }

    fn new_command(&mut self, asker: Outcomes) -> CommandId {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.commands.insert(id, asker);
        id
    }

    fn take_link(&mut self, stream: TcpStream, session: SessionId, peer: &str) {
        if self.disconnected || self.stopping.is_some() {
            return;
        }
        if self.link.session().is_some() {
            let reason = format!("a new connection with {peer} replaces it");
            self.link.end(reason, false, &mut self.pool, &self.poller);
            if let Some(ended) = self.link.take_ended() {
                self.inputs.push(Input::LinkDown { session: ended.session, reason: ended.reason });
            }
        }
        match self.link.begin(stream, session, TOKEN_LINK, &self.poller) {
            Ok(()) => self.inputs.push(Input::LinkUp { session }),
            Err(error) => {
                tracing::warn!(volume = self.name, "the connection with {peer} can't be used: {error}");
                self.tell(ShardEvent::LinkWanted { reconnect_now: false });
            }
        }
    }

    fn set_disconnected(&mut self, disconnected: bool) {
        if disconnected == self.disconnected {
            return;
        }
        self.disconnected = disconnected;
        if disconnected {
            self.link.end("disconnected by the operator".to_owned(), false, &mut self.pool, &self.poller);
            self.note_ended_session();
        } else {
            self.tell(ShardEvent::LinkWanted { reconnect_now: true });
        }
    }

    /// The volume and its clients as they are now.
    pub(super) fn view(&self, now: Moment) -> ShardView {
        let mut volume = self.mirror.view(now);
        if self.disconnected && volume.link == LinkState::Down {
            volume.link = LinkState::Disconnected;
            volume.link_reason = Some("disconnected by the operator".to_owned());
        }
        if volume.disk == DiskState::Diskless && volume.disk_reason.is_none() {
            volume.disk_reason.clone_from(&self.disk_reason);
        }
        ShardView { volume, clients: self.clients.view(now) }
    }

    /// Where the time of requests went, as each part of the shard saw it.
    fn latency(&self) -> Vec<StageView> {
        let parts = [self.mirror.latency(), self.link.latency(), self.clients.latency()];
        let mut stages: Vec<StageView> = parts.into_iter().flat_map(Latency::view).collect();
        stages.sort_by_key(StageView::place);
        stages
    }

    fn dirty(&self, max_ranges: usize, now: Moment) -> Vec<(u64, u64)> {
        let whole = ByteRange::new(0, self.mirror.view(now).size_bytes);
        let ranges = self.mirror.dirty_ranges(whole, max_ranges);
        ranges.into_iter().map(|range| (range.offset, range.length)).collect()
    }
}
