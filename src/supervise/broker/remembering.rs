//! A [`Target`] whose arguments are read once: what was decided about is what is carried out, whatever the process's other
//! threads write over it meanwhile.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Restrictions;
use crate::kernel::foreign_root::Searched;
use crate::model::attempt::ObjectId;
use crate::supervise::live_target::LiveTarget;
use crate::supervise::target::Object;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// Something asked, and what came of it.
type Known<Question, Answer> = RefCell<Vec<(Question, Result<Answer, TargetError>)>>;

/// A part of a process's memory, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMemory {
    /// Where.
    pub address: u64,
    /// What lay there.
    pub bytes: Vec<u8>,
    /// Whether it was read to the zero that ends a path; else so many bytes were.
    pub is_path: bool,
}

/// The memory of a process that made a call, each part of it read once.
pub trait Memory {
    /// Everything that was read: equal for a call that is issued again.
    fn read_so_far(&self) -> Vec<ReadMemory>;

    /// What lies at `address`, read as `other` was of another address; `None` when it cannot be read. It is no part of what was read.
    fn read_like(&self, other: &ReadMemory, address: u64) -> Option<Vec<u8>>;
}

/// A thread that waits for an answer, with a memory.
pub struct Remembering<'a> {
    live: LiveTarget<'a>,
    bytes: Known<(u64, usize), Vec<u8>>,
    paths: Known<u64, Vec<u8>>,
    places: Known<(Base, Vec<u8>, Follow, Restrictions), Place>,
    /// What was searched for each of `places`, in their order.
    searched: RefCell<Vec<Vec<Arc<Searched>>>>,
    /// What was searched for those that were asked for since [`Remembering::begin`].
    asked: RefCell<Vec<Arc<Searched>>>,
    objects: Known<Base, Object>,
    handles: Known<(i32, i32, Vec<u8>), Object>,
}

impl<'a> Remembering<'a> {
    /// `live`, remembered. Made with [`LiveTarget::keeping_searched`], it tells which directories were searched.
    #[must_use]
    pub fn new(live: LiveTarget<'a>) -> Self {
        Self {
            live,
            bytes: RefCell::default(),
            paths: RefCell::default(),
            places: RefCell::default(),
            objects: RefCell::default(),
            handles: RefCell::default(),
            searched: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// From here on [`Remembering::searched`] counts.
    pub fn begin(&self) {
        self.asked.borrow_mut().clear();
    }

    /// What was searched for the paths asked for since [`Remembering::begin`], in the order in which they were: the order in
    /// which the kernel goes. Without those that the process may search whatever their mode.
    #[must_use]
    pub fn searched(&self) -> Vec<Arc<Searched>> {
        let asked = self.asked.borrow();
        let is_own = |searched: &&Arc<Searched>| self.live.is_own_process_directory(&searched.directory);
        asked.iter().filter(|searched| !is_own(searched)).cloned().collect()
    }

    /// Lets go of every file that was found: one that is held keeps its mount busy (umount(2), EBUSY).
    pub fn let_go_of_files(&self) {
        self.places.borrow_mut().clear();
        self.searched.borrow_mut().clear();
        self.asked.borrow_mut().clear();
        self.objects.borrow_mut().clear();
        self.handles.borrow_mut().clear();
    }

    fn walked(
        &self,
        question: (Base, Vec<u8>, Follow, Restrictions),
        walk: impl FnOnce() -> Result<Place, TargetError>,
    ) -> Result<Place, TargetError> {
        let place = remembered(&self.places, question.clone(), || {
            let place = walk();
            let searched = self.live.take_searched().into_iter().map(Arc::new).collect();
            self.searched.borrow_mut().push(searched);
            place
        });
        let position = self.places.borrow().iter().position(|(asked, _)| *asked == question);
        let searched = position.and_then(|position| self.searched.borrow().get(position).cloned());
        self.asked.borrow_mut().extend(searched.unwrap_or_default());
        place
    }
}

impl Memory for Remembering<'_> {
    fn read_so_far(&self) -> Vec<ReadMemory> {
        let (paths, bytes) = (self.paths.borrow(), self.bytes.borrow());
        let paths = paths.iter().map(|(address, read)| (*address, read, true));
        let all = paths.chain(bytes.iter().map(|((address, _), read)| (*address, read, false)));
        let known = all.filter_map(|(address, read, is_path)| Some((address, read.clone().ok()?, is_path)));
        known.map(|(address, bytes, is_path)| ReadMemory { address, bytes, is_path }).collect()
    }

    fn read_like(&self, other: &ReadMemory, address: u64) -> Option<Vec<u8>> {
        let known =
            self.read_so_far().into_iter().find(|read| read.address == address && read.is_path == other.is_path);
        match known {
            Some(read) => Some(read.bytes),
            None if other.is_path => self.live.path(address).ok(),
            None => self.live.bytes(address, other.bytes.len()).ok(),
        }
    }
}

/// The answer to `question`: as before, or asked now.
fn remembered<Q: PartialEq, A: Clone>(
    known: &Known<Q, A>,
    question: Q,
    ask: impl FnOnce() -> Result<A, TargetError>,
) -> Result<A, TargetError> {
    if let Some((_, answer)) = known.borrow().iter().find(|(asked, _)| *asked == question) {
        return answer.clone();
    }
    let answer = ask();
    known.borrow_mut().push((question, answer.clone()));
    answer
}

impl Target for Remembering<'_> {
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, TargetError> {
        remembered(&self.bytes, (address, length), || self.live.bytes(address, length))
    }

    fn path(&self, address: u64) -> Result<Vec<u8>, TargetError> {
        remembered(&self.paths, address, || self.live.path(address))
    }

    fn resolve_restricted(
        &self,
        base: Base,
        path: &[u8],
        follow: Follow,
        restrictions: Restrictions,
    ) -> Result<Place, TargetError> {
        let question = (base, path.to_vec(), follow, restrictions);
        self.walked(question, || self.live.resolve_restricted(base, path, follow, restrictions))
    }

    fn object(&self, base: Base) -> Result<Object, TargetError> {
        remembered(&self.objects, base, || self.live.object(base))
    }

    fn by_handle(&self, mount: i32, kind: i32, handle: Vec<u8>) -> Result<Object, TargetError> {
        remembered(&self.handles, (mount, kind, handle.clone()), || self.live.by_handle(mount, kind, handle))
    }

    fn mount_namespace(&self) -> Result<ObjectId, TargetError> {
        self.live.mount_namespace()
    }

    fn shown_namespaces(&self) -> Result<[Arc<OwnedFd>; 4], TargetError> {
        self.live.shown_namespaces()
    }

    fn descriptor(&self, number: i32) -> Result<OwnedFd, TargetError> {
        self.live.descriptor(number)
    }

    fn has_free_descriptor(&self) -> bool {
        self.live.has_free_descriptor()
    }

    fn file_size_limit(&self) -> Option<u64> {
        self.live.file_size_limit()
    }

    fn controlling_terminal(&self) -> Result<Object, TargetError> {
        self.live.controlling_terminal()
    }

    fn is_own_process_directory(&self, directory: &OwnedFd) -> bool {
        self.live.is_own_process_directory(directory)
    }

    fn is_mount_root(&self, object: &Object) -> Option<bool> {
        self.live.is_mount_root(object)
    }

    fn content(&self, object: &Object, max_bytes: usize) -> Option<Vec<u8>> {
        self.live.content(object, max_bytes)
    }
}
