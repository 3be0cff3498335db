//! Summary, bitmaps and digest pages. A bitmap that is lost counts as all different; a summary is made again from the
//! pages; what a digest page no longer tells is settled block by block, by whoever knows what the blocks are for.

use twinfs::base::BlockNo;
use twinfs::format::{
    BITMAP_SECTORS, DigestPage, ENTRIES_PER_SECTOR, GROUP_BLOCKS, GROUP_BYTES, GROUP_EXTENTS, PAGE_BYTES,
    PageCheck, SECTOR_BYTES, SECTOR_PAYLOAD, SUMMARY_SECTORS, SectorKind, SummaryEntry, open_sector,
    seal_sector,
};

use super::{Parts, remade};
use crate::findings::{Findings, Progress};
use crate::source::Stale;

const BLOCK: u64 = BlockNo::SIZE as u64;

/// What a digest page says by itself.
enum Page {
    Whole(Box<DigestPage>),
    /// Never written, by the look of it.
    Blank,
    Damaged(String),
}

impl Parts<'_> {
    pub(super) fn groups(&mut self, findings: &mut Findings, progress: &mut Progress) {
        self.forgotten(findings);
        let groups = self.sup.geometry.group_count();
        for group in 0..groups {
            progress.at(group, groups);
            if !self.is_used(group) {
                continue;
            }
            let mut bytes = vec![0; GROUP_BYTES as usize];
            let at = self.sup.geometry.group_at(group);
            if let Err(error) = self.disk.read_at(at, &mut bytes) {
                findings.lose("summary", error.to_string());
                continue;
            }
            self.bitmaps(&bytes, group, findings);
            for nth in 0..SUMMARY_SECTORS {
                let sector = &bytes[nth * SECTOR_BYTES..][..SECTOR_BYTES];
                self.summary(sector, group, nth, findings);
            }
        }
        progress.at(groups, groups);
    }

    fn is_used(&self, group: u64) -> bool {
        self.sup.groups.get((group / 8) as usize).is_some_and(|byte| byte & 1 << (group % 8) != 0)
    }

    /// Groups that are there while the slot that counts does not know them: the newer slot is lost, and everything in
    /// them would read as never written.
    fn forgotten(&mut self, findings: &mut Findings) {
        let mut found = false;
        for group in 0..self.sup.geometry.group_count() {
            if self.is_used(group) || !self.is_there(group) {
                continue;
            }
            findings
                .add("superblock", format!("group {group} is in use, the slot that counts does not say so"));
            if let Some(byte) = self.sup.groups.get_mut((group / 8) as usize) {
                *byte |= 1 << (group % 8);
            }
            found = true;
        }
        if !found {
            return;
        }
        self.sup.seq += 1;
        self.slot = 1 - self.slot;
        let written = self.sup.encode(self.label.incarnation).map_err(|damage| damage.to_string());
        let at = self.label.slots[self.slot];
        let written =
            written.and_then(|bytes| self.disk.write_at(at, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            findings.lose("superblock", error);
        }
    }

    fn is_there(&self, group: u64) -> bool {
        remade::is_there(self.disk, &self.label, &self.sup.geometry, group)
    }

    fn bitmaps(&self, group_bytes: &[u8], group: u64, findings: &mut Findings) {
        for (nth, kind) in [SectorKind::Differs, SectorKind::ToCopy].into_iter().enumerate() {
            let start = BLOCK as usize + nth * (GROUP_BLOCKS - 1) / 2 * BLOCK as usize;
            let area = &group_bytes[start..start + BITMAP_SECTORS * SECTOR_BYTES];
            for (place, sector) in area.chunks(SECTOR_BYTES).enumerate() {
                let index = group * BITMAP_SECTORS as u64 + place as u64;
                if open_sector(self.label.incarnation, kind, index, sector).is_some() {
                    continue;
                }
                let text = format!("{kind:?}, sector {index} is damaged: all of it counts as different");
                findings.add("bitmaps", text);
                let at = self.sup.geometry.group_at(group) + (start + place * SECTOR_BYTES) as u64;
                self.seal(kind, index, &[0xFF; SECTOR_PAYLOAD], at, findings);
            }
        }
    }

    fn seal(
        &self,
        kind: SectorKind,
        index: u64,
        payload: &[u8; SECTOR_PAYLOAD],
        at: u64,
        findings: &mut Findings,
    ) {
        let mut sector = [0; SECTOR_BYTES];
        seal_sector(self.label.incarnation, kind, index, payload, &mut sector);
        if let Err(error) = self.disk.write_at(at, &sector) {
            findings.lose("image", error.to_string());
        }
    }

    fn summary(&mut self, sector: &[u8], group: u64, nth: usize, findings: &mut Findings) {
        let index = group * SUMMARY_SECTORS as u64 + nth as u64;
        let first = group * GROUP_EXTENTS + (nth * ENTRIES_PER_SECTOR) as u64;
        let mut payload = [0; SECTOR_PAYLOAD];
        let mut again = false;
        match open_sector(self.label.incarnation, SectorKind::Summary, index, sector) {
            Some(found) => payload.copy_from_slice(found),
            None => {
                findings
                    .add("summary", format!("sector {index} is damaged: made again from the digest pages"));
                again = true;
            }
        }
        let lost = again;
        for (place, raw) in payload.chunks_exact_mut(SummaryEntry::BYTES).enumerate() {
            let extent = first + place as u64;
            let entry = SummaryEntry::decode(raw).filter(|_| !lost);
            let exists = extent < self.sup.geometry.extents;
            let new = match entry {
                Some(entry) if exists => {
                    self.page(extent, &entry, findings);
                    continue;
                }
                Some(entry) if entry == SummaryEntry::default() => continue,
                _ if !exists => {
                    if !lost {
                        findings.add("summary", format!("extent {extent} does not exist"));
                    }
                    SummaryEntry::default()
                }
                _ => {
                    if !lost {
                        findings.add("summary", format!("extent {extent}: unknown flags"));
                    }
                    self.entry_of_page(extent, findings)
                }
            };
            new.encode(raw);
            again = true;
        }
        if again {
            let at = self.sup.geometry.group_at(group) + (nth * SECTOR_BYTES) as u64;
            self.seal(SectorKind::Summary, index, &payload, at, findings);
        }
    }

    fn read_page(&self, extent: u64) -> Page {
        let mut bytes = vec![0; PAGE_BYTES];
        if let Err(error) = self.disk.read_at(self.sup.geometry.page_at(extent), &mut bytes) {
            return Page::Damaged(error.to_string());
        }
        match DigestPage::decode(&bytes, self.label.incarnation, extent) {
            Ok((page, PageCheck::Whole)) => Page::Whole(Box::new(page)),
            Ok((_, PageCheck::Torn)) => Page::Damaged("the page is torn".to_string()),
            Err(_) if bytes.iter().all(|byte| *byte == 0) => Page::Blank,
            Err(damage) => Page::Damaged(damage.to_string()),
        }
    }

    /// The summary of an extent by its page alone. Whether it is backed is lost: it will be backed again.
    fn entry_of_page(&mut self, extent: u64, findings: &mut Findings) -> SummaryEntry {
        match self.read_page(extent) {
            Page::Whole(page) => {
                if page.has_unknown() {
                    self.damaged.insert(extent);
                }
                SummaryEntry { touched: true, backed: false, hash: page.summary_hash() }
            }
            Page::Blank => {
                // Never written, or lost as well: content that a file has there will tell.
                if let Stale::These(extents) = &mut self.stale {
                    extents.insert(extent);
                }
                SummaryEntry::default()
            }
            Page::Damaged(text) => {
                if !self.hot.contains(&extent) {
                    findings.lose("digests", format!("extent {extent}: {text}"));
                    self.damaged.insert(extent);
                }
                SummaryEntry { touched: true, backed: false, hash: [0; 15] }
            }
        }
    }

    /// A digest page against its summary.
    fn page(&mut self, extent: u64, entry: &SummaryEntry, findings: &mut Findings) {
        if !entry.touched || self.hot.contains(&extent) {
            return;
        }
        let text = match self.read_page(extent) {
            Page::Whole(page) if page.summary_hash() != entry.hash => {
                "its digest page is not the one that the summary knows".to_string()
            }
            Page::Whole(page) if page.has_unknown() => "nothing is known of some blocks".to_string(),
            Page::Whole(_) => return,
            Page::Blank => "its digest page is gone".to_string(),
            Page::Damaged(text) => text,
        };
        findings.lose("digests", format!("extent {extent}: {text}"));
        self.damaged.insert(extent);
    }
}
