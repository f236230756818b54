//! Every queue, table, retry, size and time has its bound here, with unit and reason.

use std::time::Duration;

/// Largest piece of a client's request with a payload, and largest buffer, in bytes. One huge page holds two.
pub const PIECE_BYTES_MAX: u64 = 1 << 20;
/// Largest piece of a zero request, in bytes: bounds how long one range lock is held.
pub const ZERO_BYTES_MAX: u64 = 64 << 20;
/// Pieces admitted to one core at a time. More wait in the clients' sockets.
pub const PIECES_IN_FLIGHT_MAX: usize = 1024;
/// Largest volume, in bytes: not only the number of each 4 KiB block fits 32 bits, but also how many there are. A larger
/// disk is used up to here.
pub const VOLUME_BYTES_MAX: u64 = (1 << 44) - (1 << 20);
/// Generations a disk remembers, of those that a peer held or may have held. What falls out makes a peer's disk
/// unrelated, which wants an operator. 1 KiB.
pub const HISTORY_MAX: usize = 64;

/// Smallest volume, in bytes: below it the metadata would be larger than the data.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;

/// Bytes of a metadata unit; every unit carries its own checksum.
pub const METADATA_UNIT_BYTES: usize = 4096;
/// Largest single write of metadata (a part of a snapshot), in bytes: one buffer of the pool.
pub const METADATA_WRITE_BYTES_MAX: usize = 1 << 20;
/// Time a disk's lock is waited for: longer than udev's look at a device, shorter than an operator's patience.
pub const DISK_LOCK_TIME: Duration = Duration::from_secs(2);
/// Time a disk's lock is waited for when its holder was killed: the kernel keeps it until the last I/O is done.
pub const DISK_LOCK_DYING_TIME: Duration = Duration::from_secs(60);
/// Time internal metadata is looked for where it would be if the disk had been resized, for the message.
pub const LOCATOR_SEARCH_TIME: Duration = Duration::from_secs(1);
/// Holes one question is answered with; what lies behind counts as data.
pub const HOLES_MAX: usize = 1024;
/// Bytes zeroed by one call when a disk is initialised: bounds the time between two signs of progress.
pub const ZERO_STEP_BYTES: u64 = 256 << 20;
/// Smallest region one write-intent bit stands for, as log2 of bytes: 1 MiB.
pub const REGION_SHIFT_MIN: u32 = 20;
/// Largest region one write-intent bit stands for, as log2 of bytes: 64 MiB.
pub const REGION_SHIFT_MAX: u32 = 26;
/// Regions a volume is divided into until they reach their largest size: keeps the map of a small volume exact.
pub const REGIONS_WANTED: u64 = 16_384;

/// Largest chunk of a resync, in bytes.
pub const RESYNC_CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Largest chunk while clients are active, in bytes: bounds how long a client waits behind one.
pub const RESYNC_CHUNK_BYTES_BUSY: u64 = 128 << 10;
/// Resync bytes under way at once: reading, sending and writing each keep some of it.
pub const RESYNC_WINDOW_BYTES: u64 = 12 << 20;
/// Resync bytes under way at once while clients are active.
pub const RESYNC_WINDOW_BYTES_BUSY: u64 = 4 << 20;
/// Largest run of holes sent as one frame, in bytes: a disk that must write zeroes still answers in time.
pub const RESYNC_ZERO_BYTES_MAX: u64 = 256 << 20;
/// Bytes written between two flushes of the target, at most.
pub const FLUSH_WINDOW_BYTES: u64 = 256 << 20;

/// Payload of one link frame, in bytes. A frame that says more is refused before anything is allocated.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// How soon after it sent the last ping that the peer answered a secondary must find the peer's daemon gone, for that to
/// prove that the peer did not go on alone.
pub const PEER_GONE_WITHIN: Duration = Duration::from_secs(1);
/// How long a primary that lost its link waits before it acknowledges alone, unless it knows that the peer's daemon is
/// gone: longer than [`PEER_GONE_WITHIN`] by more than clocks may differ in rate.
pub const SOLO_AFTER: Duration = Duration::from_millis(1100);
/// A primary's frame that the peer has not written for so long says, in a failover group, that the peer or the link is slow.
/// A disk's hiccup is shorter.
pub const PEER_SLOW: Duration = Duration::from_millis(500);
/// Pings that must be missing before a secondary ends its session because the owner says, on other paths, that it goes on
/// alone.
pub const PINGS_MISSED: u32 = 2;
/// Time between two tries of a probe whose connection was dropped.
pub const PROBE_PAUSE: Duration = Duration::from_millis(5);

/// Ranges of a verify's differences kept for the report.
pub const VERIFY_RANGES_MAX: usize = 64;

/// NBD connections of one volume, those still negotiating included.
pub const NBD_CONNECTIONS_MAX: usize = 64;
/// Connections of one volume that have not finished negotiating; for one more the oldest of them gives way.
pub const NBD_HANDSHAKES_MAX: usize = 32;
/// Bytes of option data accepted in one NBD option; a larger known one is refused, a larger unknown one skipped.
pub const NBD_OPTION_BYTES_MAX: usize = 64 << 10;
/// Bytes of an unknown NBD option skipped before the connection is closed.
pub const NBD_OPTION_SKIP_BYTES_MAX: usize = 1 << 20;
/// Bytes an NBD client may have as the payload of one request.
pub const NBD_PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Requests one NBD connection may have in flight; beyond it the socket is not read.
pub const NBD_REQUESTS_IN_FLIGHT_MAX: usize = 128;
/// Payload bytes one NBD connection may have in flight; beyond it the socket is not read. Two of the largest requests.
pub const NBD_BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;
/// Bytes of reads one NBD connection may have under way or unsent: what a client that stops reading can hold of the
/// pool. Also the largest read that is answered all at once, so that an error that comes late is still an answer.
pub const NBD_READ_WINDOW_BYTES: u64 = 4 << 20;
/// Bytes of replies one NBD connection may leave unread; beyond it the socket is not read.
pub const NBD_UNSENT_BYTES_MAX: u64 = 1 << 20;
/// Bytes of small requests taken from an NBD socket in one read, and of the buffer they are taken into.
pub const NBD_STAGING_BYTES: usize = 128 << 10;
/// Descriptors of one block status reply; a client asks again for the rest.
pub const NBD_STATUS_DESCRIPTORS_MAX: usize = 1024;
/// Bytes taken from one NBD socket in one turn of the shard, so that no client starves the others.
pub const NBD_TURN_BYTES_MAX: usize = 2 << 20;
/// Time without accepting NBD clients after the kernel had no descriptor or memory for one.
pub const NBD_ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// NBD clients accepted from one listener in one turn of the shard.
pub const NBD_ACCEPTS_PER_TURN: usize = 16;

/// Bytes of one shard's buffers. Bounds the memory of a volume under any load; touched only as far as it is used.
pub const POOL_ARENA_BYTES: usize = 48 << 20;
/// Chunks of 1 MiB each class of buffers (clients, link, resync) always finds: the resync's window, and enough for
/// the link to receive one largest frame while others are being written.
pub const POOL_RESERVE_CHUNKS: usize = 4;

/// Disk operations of one shard given to the kernel at a time; more wait. Also the size of the completion queue.
pub const RING_IN_FLIGHT_MAX: usize = 1024;
/// Entries of the submission queue: operations given to the kernel per system call.
pub const RING_ENTRIES: u32 = 256;
/// Threads that make disk system calls where io_uring is forbidden.
pub const DISK_THREADS: usize = 4;
/// How often one disk system call is repeated when it was interrupted, before that counts as a failure.
pub const DISK_RETRIES_MAX: u32 = 32;
/// Bytes written per system call where zeroes have to be written out.
pub const ZERO_FILL_BYTES: usize = 256 << 10;

/// Requests a block device of this kernel takes at a time, beyond which its users wait. The core admits more than these.
pub const UBLK_DEPTH: u16 = 128;
/// Shortest and longest wait before a block device that could not be made is tried again.
pub const DEVICE_RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`DEVICE_RETRY_MIN`].
pub const DEVICE_RETRY_MAX: Duration = Duration::from_secs(30);
/// Time a block device of the NBD client has to end after it was told.
pub const DEVICE_STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// Time after which the NBD client looks whether a request was lost with its connection, and asks it again on the new one
/// (kernel-notes/0011). Until then whoever waits for it goes on waiting, so it is short.
pub const NBD_DEVICE_LOST_AFTER: Duration = Duration::from_secs(3);
/// How long the users of such a device wait for a daemon that has gone, before they get errors: longer than a restart of
/// the server, which ends them anyway.
pub const NBD_DEVICE_DEAD_TIME: Duration = Duration::from_secs(24 * 3600);
/// Time the process that served a parked device before has to be quite gone.
pub const DEVICE_TAKEOVER_TIME_MAX: Duration = Duration::from_secs(60);

/// Writes of one metadata record given to the disk at once: bounds the memory of a large snapshot.
pub const PERSIST_WRITES_IN_FLIGHT_MAX: usize = 8;

/// Bytes read ahead from the peer in one system call.
pub const LINK_STAGING_BYTES: usize = 256 << 10;
/// Frames taken in from the peer per turn; keeps disk and clients from waiting behind a busy link.
pub const LINK_FRAMES_PER_TURN: usize = 64;
/// Payload bytes after which a turn takes no further frame from the peer, for the same reason.
pub const LINK_TURN_BYTES_MAX: u64 = 4 << 20;
/// Bytes queued for a peer that doesn't read, before the session is given up. Payloads are bounded by the pool.
pub const LINK_QUEUE_BYTES_MAX: usize = 96 << 20;
/// Time a session that was ended in order has to send its last frames.
pub const LINK_LINGER_TIME_MAX: Duration = Duration::from_millis(500);
/// Connections that may still be sending their last frames.
pub const LINK_LINGERING_MAX: usize = 4;

/// Time after the signal that stops a daemon from which on another one ends it at once; sooner it is the same one twice.
pub const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);
/// Time a stopping node waits for requests that can't be served, before it stops without them.
pub const REQUESTS_STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Time a disk that is given up has to end its last operation, before `attach` and `replace-disk` say so.
pub const DISK_CLOSE_TIME_MAX: Duration = Duration::from_secs(60);
/// Time a shard that has stopped has for the last bytes to its clients and its peer.
pub const SHARD_STOP_TIME_MAX: Duration = Duration::from_secs(1);
/// Idle time after which a shard gives its buffers' memory back.
pub const POOL_TRIM_AFTER: Duration = Duration::from_secs(10);

/// Heartbeat paths of a pair, networks and the replication link together: bounds a heartbeat to one datagram.
pub const HEARTBEAT_PATHS_MAX: usize = 8;
/// Heartbeats of one path that may be missed in a row before it counts as down.
pub const HEARTBEAT_MISSES: u32 = 5;
/// Lives of the peer's daemon that ended and are remembered, so that their heartbeats, late or replayed, mean nothing.
pub const INCARNATIONS_REMEMBERED: usize = 16;
/// Time a step of a group's plan has beyond its deadline to say how it ended.
pub const STEP_GRACE: Duration = Duration::from_secs(2);
/// Age up to which a look at the arbiter's record is new enough to propose a change on.
pub const ARBITER_FRESH: Duration = Duration::from_secs(1);
/// Rounds in which one input may change a group's state; more would be two decisions that undo each other.
pub const GROUP_DECISIONS_MAX: usize = 32;
/// Time a rehearsal of a loss looks ahead: longer than any delay before a group moves, by default.
pub const EXPLAIN_TIME: Duration = Duration::from_secs(180);
/// Inputs of one rehearsal: heartbeats on every path for its whole time, and more.
pub const EXPLAIN_INPUTS_MAX: usize = 100_000;
/// Things told in one rehearsal: one that comes to an end has far fewer.
pub const EXPLAIN_NOTES_MAX: usize = 256;
/// Heartbeats in a row, with none of the known life between them, by which another life of the peer is believed at once.
pub const HEARTBEATS_TO_INSIST: u32 = 5;

/// Bytes that are gathered for an archive before they are written: bounds memory and the wait for one sync.
pub const ARCHIVE_BATCH_BYTES: usize = 8 << 20;
/// Files looked at in the directory of archives: an operator who keeps more has put them elsewhere.
pub const ARCHIVE_FILES_MAX: usize = 4096;
/// Names tried for an archive: more of one volume are not begun in one second.
pub const ARCHIVE_NAMES_TRIED: u32 = 100;

/// Bytes of a group's record in the arbiter: names of 64 bytes four times, numbers, and room.
pub const ARBITER_RECORD_BYTES_MAX: usize = 4096;
/// Bytes of one answer of an etcd: a record in base64 with its key and headers, several times over.
pub const ARBITER_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Old records kept in an arbiter's directory, for people: each is one change of the owner or of who is in sync.
pub const ARBITER_RECORDS_KEPT: u64 = 64;
/// Files looked at in an arbiter's directory: more were put there by somebody else.
pub const ARBITER_FILES_MAX: usize = 4096;
/// How long the peer may be heard without its sign in the arbiter's directory changing: several looks of either side,
/// and longer than network file systems remember what a directory held.
pub const ARBITER_SIGN_TIME: Duration = Duration::from_secs(90);

/// Time between two looks at every part of the arbiter, besides the questions the group asks it.
pub const ARBITER_HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// The same while such a look found something: what is mended is known soon.
pub const ARBITER_TROUBLED_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks whether the device that switches the peer off can be reached: some are slow and wear out.
pub const FENCING_HEALTH_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time a look at a resource may take for `group status`, which must not hang with it.
pub const STATUS_LOOK_TIME_MAX: Duration = Duration::from_secs(1);
/// Time between two looks whether datagrams came on a heartbeat path that were not taken.
pub const HEARTBEAT_REFUSED_LOOK: Duration = Duration::from_secs(2);
/// Age up to which datagrams on a heartbeat path that were not taken are told as a trouble of now.
pub const HEARTBEAT_REFUSED_RECENT: Duration = Duration::from_secs(60);

/// Events kept for `events`: weeks of a healthy pair, and every step of a bad night.
pub const EVENTS_KEPT_MAX: usize = 4096;
/// Events waiting to be kept. More at a time are lost, and counted: whoever records one never waits.
pub const EVENTS_WAITING_MAX: usize = 4096;
/// Bytes of each of the two files of the journal of events: together they hold about the events that are kept.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 20;
/// Announcements waiting for a hook that is slow; one more is not announced, and that is said.
pub const HOOKS_WAITING_MAX: usize = 256;
/// Longest time a question for new events waits for one.
pub const EVENTS_WAIT_MAX: Duration = Duration::from_secs(20);
/// Events in one answer.
pub const EVENTS_SHOWN_MAX: usize = 1000;
/// Time a stopping daemon gives to the last announcement.
pub const EVENTS_STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Longest datagram of a heartbeat, in bytes: passes every network that IPv6 passes without being cut in pieces.
pub const HEARTBEAT_BYTES_MAX: usize = 1200;
/// Datagrams of one path that may overtake each other; an older one counts as replayed. Bits of a word.
pub const HEARTBEAT_WINDOW: u64 = 128;
/// Datagrams taken from one path before the others have their turn.
pub const HEARTBEATS_PER_TURN: usize = 64;
/// Time between two tries to open a heartbeat path whose address is not there.
pub const HEARTBEAT_REOPEN_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two log lines about the same trouble with the heartbeats of a path.
pub const HEARTBEAT_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Datagrams in a row that show that the peer is heard and does not hear us, before that is logged.
pub const HEARTBEAT_UNPROVEN_MAX: u64 = 10;
/// Heartbeats heard and not yet taken by the group's task; one more is dropped, as the network might have done.
pub const HEARTBEATS_WAITING_MAX: usize = 1024;

/// Bytes of a fencing program's output that are kept for the message: the last ones, where the reason stands.
pub const FENCING_OUTPUT_BYTES_MAX: usize = 2048;
/// Time between two reads of the victim's status after it was switched off.
pub const FENCING_STATUS_INTERVAL: Duration = Duration::from_millis(250);
/// Time the rest of a fencing program's output is waited for when it has ended.
pub const FENCING_REST_TIME: Duration = Duration::from_millis(100);
