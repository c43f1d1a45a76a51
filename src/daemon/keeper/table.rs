//! What the keeper holds: descriptors by number, each with a label that a worker wrote for the next one.
//!
//! All room is made at the start, so that nothing a container or a client does makes the keeper ask for memory: a slot for each
//! descriptor, and the labels in a memfd, which can be handed on like the descriptors themselves.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;

use crate::daemon::hand_over::MAX_LABEL_BYTES;
use crate::kernel::Errno;

/// Bytes from one label to the next: its length, then itself.
const LABEL_ROOM: usize = MAX_LABEL_BYTES + LENGTH_BYTES;
const LENGTH_BYTES: usize = 2;

/// Descriptors and labels.
#[derive(Debug)]
pub struct Table {
    descriptors: Vec<Option<OwnedFd>>,
    labels: OwnedFd,
    buffer: Vec<u8>,
}

impl Table {
    /// An empty table of `places` places, numbered from 0.
    ///
    /// # Errors
    /// memfd_create(2)'s, ftruncate(2)'s.
    pub fn new(places: usize) -> Result<Self, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let labels = rustix::fs::memfd_create("acctguard-labels", flags)?;
        rustix::fs::ftruncate(&labels, places.saturating_mul(LABEL_ROOM) as u64)?;
        rustix::fs::fcntl_add_seals(&labels, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self::of(labels, places))
    }

    /// A table whose labels an earlier keeper wrote; its descriptors are yet to be put in.
    ///
    /// # Errors
    /// `EINVAL` for a descriptor that is not such memory.
    pub fn adopt(labels: OwnedFd, places: usize) -> Result<Self, Errno> {
        let size = u64::try_from(rustix::fs::fstat(&labels)?.st_size).unwrap_or(0);
        let seals = rustix::fs::fcntl_get_seals(&labels)?;
        if !seals.contains(SealFlags::SHRINK) || size != places.saturating_mul(LABEL_ROOM) as u64 {
            return Err(Errno::INVAL);
        }
        Ok(Self::of(labels, places))
    }

    fn of(labels: OwnedFd, places: usize) -> Self {
        let mut descriptors = Vec::new();
        descriptors.resize_with(places, || None);
        Self { descriptors, labels, buffer: vec![0; MAX_LABEL_BYTES] }
    }

    /// The memory of the labels.
    #[must_use]
    pub fn labels(&self) -> BorrowedFd<'_> {
        self.labels.as_fd()
    }

    /// Puts `descriptor` at `number`, in place of what is there.
    ///
    /// # Errors
    /// `ERANGE` for a number past the end or a label that is too long; pwrite(2)'s. The table is as it was then.
    pub fn hold(&mut self, number: u32, descriptor: OwnedFd, label: &[u8]) -> Result<(), Errno> {
        let length = u16::try_from(label.len()).map_err(|_| Errno::RANGE)?;
        if label.len() > MAX_LABEL_BYTES {
            return Err(Errno::RANGE);
        }
        let place = self.descriptors.get_mut(number as usize).ok_or(Errno::RANGE)?;
        let offset = offset(number);
        write_all(&self.labels, label, offset + LENGTH_BYTES as u64)?;
        write_all(&self.labels, &length.to_le_bytes(), offset)?;
        *place = Some(descriptor);
        Ok(())
    }

    /// Puts `descriptor` at `number`, where its label is already.
    pub fn restore(&mut self, number: u32, descriptor: OwnedFd) {
        if let Some(place) = self.descriptors.get_mut(number as usize) {
            *place = Some(descriptor);
        }
    }

    /// Lets go what is at `number`.
    pub fn release(&mut self, number: u32) {
        if let Some(place) = self.descriptors.get_mut(number as usize) {
            *place = None;
        }
    }

    /// Lets go everything.
    pub fn clear(&mut self) {
        self.descriptors.iter_mut().for_each(|place| *place = None);
    }

    /// How many descriptors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.descriptors.iter().flatten().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands every descriptor with its number and label to `take`, until that fails.
    ///
    /// # Errors
    /// Those of `take`. A label that cannot be read is empty.
    pub fn each<E>(&mut self, mut take: impl FnMut(u32, BorrowedFd<'_>, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let Self { descriptors, labels, buffer } = self;
        for (number, descriptor) in descriptors.iter().enumerate() {
            let (Some(descriptor), Ok(number)) = (descriptor, u32::try_from(number)) else { continue };
            let length = read_label(labels, number, buffer);
            take(number, descriptor.as_fd(), buffer.get(..length).unwrap_or_default())?;
        }
        Ok(())
    }
}

fn offset(number: u32) -> u64 {
    u64::from(number).saturating_mul(LABEL_ROOM as u64)
}

fn read_label(labels: &OwnedFd, number: u32, buffer: &mut [u8]) -> usize {
    let mut length = [0_u8; LENGTH_BYTES];
    let read = rustix::io::pread(labels, &mut length[..], offset(number));
    let length = usize::from(u16::from_le_bytes(length)).min(buffer.len());
    let text = buffer.get_mut(..length).unwrap_or_default();
    read.and_then(|_| rustix::io::pread(labels, text, offset(number) + LENGTH_BYTES as u64)).unwrap_or_default()
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset = offset.saturating_add(written as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn content(table: &mut Table) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        table
            .each(|number, _, label| {
                found.push((number, label.to_vec()));
                Ok::<(), ()>(())
            })
            .unwrap();
        found
    }

    #[test]
    fn what_is_held_is_there_until_it_is_released_and_its_label_outlives_the_table() {
        let mut table = Table::new(3).unwrap();
        assert!(table.is_empty());
        table.hold(2, null(), b"two").unwrap();
        table.hold(0, null(), b"").unwrap();
        table.hold(2, null(), b"second").unwrap();
        assert_eq!(content(&mut table), [(0, Vec::new()), (2, b"second".to_vec())]);
        table.release(0);
        table.release(9);
        assert_eq!(table.len(), 1);
        let labels = table.labels().try_clone_to_owned().unwrap();
        let mut next = Table::adopt(labels, 3).unwrap();
        assert!(next.is_empty());
        next.restore(2, null());
        assert_eq!(content(&mut next), [(2, b"second".to_vec())]);
        next.clear();
        assert!(next.is_empty());
    }

    #[test]
    fn nothing_is_put_past_the_end_and_other_memory_is_not_adopted() {
        let mut table = Table::new(1).unwrap();
        assert_eq!(table.hold(1, null(), b"x"), Err(Errno::RANGE));
        assert_eq!(table.hold(0, null(), &[7; MAX_LABEL_BYTES + 1]), Err(Errno::RANGE));
        assert!(table.is_empty());
        table.hold(0, null(), &[7; MAX_LABEL_BYTES]).unwrap();
        assert_eq!(content(&mut table), [(0, vec![7; MAX_LABEL_BYTES])]);
        assert!(Table::adopt(table.labels().try_clone_to_owned().unwrap(), 2).is_err());
        assert!(Table::adopt(null(), 1).is_err());
    }
}
