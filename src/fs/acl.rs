//! POSIX access control lists as bytes of two extended attributes, and what create and chmod do to them.
//!
//! Decides how an ACL and the permission bits of a mode follow each other. Does not know inodes or who asks: the kernel
//! checks permissions. Invariant: a list that says no more than nine permission bits is never stored as an attribute.

use crate::fs::FsError;

/// Name of the list that guards a file.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the list that new files of a directory start with.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Decodes and checks the attribute's value: each of the three base entries once, ordered tags, a mask when users
    /// or groups are named. An empty list is `None`: it means "no list".
    pub fn parse(value: &[u8]) -> Result<Option<Acl>, FsError> {
        let (head, body) = value.split_at_checked(HEADER).ok_or(FsError::Invalid)?;
        if u32_at(head, 0) != VERSION || body.len() % ENTRY != 0 {
            return Err(FsError::Invalid);
        }
        let entries: Vec<Entry> = body
            .chunks_exact(ENTRY)
            .map(|e| Entry { tag: u16_at(e, 0), perm: u16_at(e, 2), id: u32_at(e, 4) })
            .collect();
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl { entries };
        acl.check()?;
        Ok(Some(acl))
    }

    fn check(&self) -> Result<(), FsError> {
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        let tags_known = self.entries.iter().all(|e| known.contains(&e.tag) && e.perm <= 7);
        let ordered = self.entries.windows(2).all(|w| w[0].tag <= w[1].tag);
        let once = |tag| self.entries.iter().filter(|e| e.tag == tag).count() == 1;
        let masks = self.entries.iter().filter(|e| e.tag == MASK).count();
        let named = self.entries.iter().any(|e| e.tag == USER || e.tag == GROUP);
        let bases = once(USER_OBJ) && once(GROUP_OBJ) && once(OTHER);
        let mask_right = masks <= 1 && (masks == 1 || !named);
        if tags_known && ordered && bases && mask_right { Ok(()) } else { Err(FsError::Invalid) }
    }

    /// The attribute's value.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let id = if entry.tag == USER || entry.tag == GROUP { entry.id } else { NO_ID };
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    /// Whether nine permission bits say the same.
    pub fn is_plain(&self) -> bool {
        self.entries.len() == 3
    }

    /// The nine permission bits that a file with this list shows: the mask stands in the place of the group.
    pub fn mode_bits(&self) -> u32 {
        let middle = if self.has(MASK) { MASK } else { GROUP_OBJ };
        (self.perm(USER_OBJ) << 6) | (self.perm(middle) << 3) | self.perm(OTHER)
    }

    /// chmod: the list follows the nine bits.
    pub fn set_mode_bits(&mut self, mode: u32) {
        let middle = if self.has(MASK) { MASK } else { GROUP_OBJ };
        self.set(USER_OBJ, mode >> 6);
        self.set(middle, mode >> 3);
        self.set(OTHER, mode);
    }

    /// What a new file in a directory with this default list starts with: a list of its own, unless plain, and the nine
    /// bits of its mode. `mode` is what the caller asked for, without the umask.
    pub fn for_new_file(&self, mode: u32) -> (Option<Acl>, u32) {
        let mut acl = self.clone();
        acl.set_mode_bits(mode & self.mode_bits());
        let bits = acl.mode_bits();
        ((!acl.is_plain()).then_some(acl), bits)
    }

    fn has(&self, tag: u16) -> bool {
        self.entries.iter().any(|e| e.tag == tag)
    }

    fn perm(&self, tag: u16) -> u32 {
        self.entries.iter().find(|e| e.tag == tag).map_or(0, |e| u32::from(e.perm))
    }

    fn set(&mut self, tag: u16, perm: u32) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.tag == tag) {
            entry.perm = (perm & 7) as u16;
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    fn with_user() -> Vec<u8> {
        acl(&[
            (USER_OBJ, 7, NO_ID),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, NO_ID),
            (MASK, 7, NO_ID),
            (OTHER, 5, NO_ID),
        ])
    }

    #[test]
    fn a_list_survives_its_bytes() {
        let bytes = with_user();
        assert_eq!(Acl::parse(&bytes).unwrap().unwrap().bytes(), bytes);
    }

    #[test]
    fn malformed_lists_are_refused() {
        let cases = [
            vec![],
            vec![1, 0, 0, 0],
            acl(&[(USER_OBJ, 7, NO_ID)]),
            acl(&[(USER_OBJ, 7, NO_ID), (USER, 7, 1), (GROUP_OBJ, 7, NO_ID), (OTHER, 7, NO_ID)]),
            acl(&[(OTHER, 7, NO_ID), (USER_OBJ, 7, NO_ID), (GROUP_OBJ, 7, NO_ID)]),
            acl(&[(USER_OBJ, 8, NO_ID), (GROUP_OBJ, 7, NO_ID), (OTHER, 7, NO_ID)]),
        ];
        for case in cases {
            assert_eq!(Acl::parse(&case), Err(FsError::Invalid), "{case:?}");
        }
        assert_eq!(Acl::parse(&acl(&[])), Ok(None));
    }

    #[test]
    fn a_new_file_takes_the_default_list_masked_by_its_mode_and_not_by_the_umask() {
        let default = Acl::parse(&with_user()).unwrap().unwrap();
        let (own, bits) = default.for_new_file(0o640);
        assert_eq!(bits, 0o640);
        let own = own.unwrap();
        assert_eq!(own.perm(MASK), 4, "the mask takes the group's bits");
        assert_eq!(own.perm(GROUP_OBJ), 5, "the owning group's own entry stays");
        assert_eq!(own.perm(USER), 6);
    }

    #[test]
    fn chmod_moves_the_mask_of_a_list_with_names() {
        let mut list = Acl::parse(&with_user()).unwrap().unwrap();
        list.set_mode_bits(0o701);
        assert_eq!(
            (list.perm(USER_OBJ), list.perm(MASK), list.perm(GROUP_OBJ), list.perm(OTHER)),
            (7, 0, 5, 1)
        );
        assert_eq!(list.mode_bits(), 0o701);
    }
}
