//! The bytes of a row. The INTAKE part comes first, so that the look-up of a repeated id reads no further.
//!
//! Times are written as differences from the row's own time, and deliveries name their recipients by place, which keeps
//! a notification to one recipient at about 250 bytes.

use super::codec::{Decoder, Encoder};
use super::logged::EventKey;
use super::row::{Delivery, IntakePart, Marks, Row, Standing};

/// A SHA-256 in hexadecimal.
const FINGERPRINT_DIGITS: usize = 64;

impl Row {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out =
            Encoder(Vec::with_capacity(160 + 96 * self.deliveries.len() + 12 * self.timeline.len()));
        let base = self.time();
        out.signed(base);
        out.text(&self.id);
        out.optional(self.intake.as_ref(), write_intake);
        out.optional(self.first_at, |out, at| out.signed(at.wrapping_sub(base)));
        out.optional(self.whole.as_ref(), |out, standing| write_standing(out, standing, base));
        out.optional(self.aside.as_ref(), |out, standing| write_standing(out, standing, base));
        write_marks(&mut out, &self.marks, base);
        out.number(self.recipients.len() as u64);
        for recipient in &self.recipients {
            out.text(recipient);
        }
        out.byte(u8::from(self.deliveries_cut) | (u8::from(self.timeline_cut) << 1));
        out.number(self.deliveries.len() as u64);
        for delivery in &self.deliveries {
            self.write_delivery(&mut out, delivery, base);
        }
        out.number(self.timeline.len() as u64);
        for key in &self.timeline {
            out.signed(key.at.wrapping_sub(base));
            out.raw(&key.order.to_be_bytes());
        }
        out.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut read = Decoder(bytes);
        let base = read.signed()?;
        let mut row = Row::new(read.text()?);
        row.intake = read.optional(read_intake)?;
        row.first_at = read.optional(Decoder::signed)?.map(|at| at.wrapping_add(base));
        row.whole = read.optional(|read| read_standing(read, base))?;
        row.aside = read.optional(|read| read_standing(read, base))?;
        row.marks = read_marks(&mut read, base)?;
        for _ in 0..read.count()? {
            row.recipients.push(read.text()?.into());
        }
        let cut = read.byte()?;
        (row.deliveries_cut, row.timeline_cut) = (cut & 1 != 0, cut & 2 != 0);
        for _ in 0..read.count()? {
            let delivery = row.read_delivery(&mut read, base)?;
            row.deliveries.push(delivery);
        }
        for _ in 0..read.count()? {
            let at = read.signed()?.wrapping_add(base);
            row.timeline.push(EventKey { at, order: read.raw().map(u64::from_be_bytes)? });
        }
        read.0.is_empty().then_some(row)
    }

    /// Only the id and the INTAKE part.
    pub(super) fn decode_intake(bytes: &[u8]) -> Option<(&str, Option<IntakePart>)> {
        let mut read = Decoder(bytes);
        read.signed()?;
        Some((read.text()?, read.optional(read_intake)?))
    }

    fn write_delivery(&self, out: &mut Encoder, delivery: &Delivery, base: i64) {
        out.raw(&delivery.id.to_be_bytes());
        // 0: unknown; 1: a text follows; from 2 on, the place among the recipients.
        match delivery.recipient.as_ref().map(|it| (it, self.recipients.binary_search(it))) {
            None => out.number(0),
            Some((_, Ok(place))) => out.number(place as u64 + 2),
            Some((recipient, Err(_))) => {
                out.number(1);
                out.text(recipient);
            }
        }
        out.optional(delivery.channel, |out, channel| out.byte(channel as u8));
        out.optional(delivery.contact.as_deref(), Encoder::text);
        out.optional(delivery.standing.as_ref(), |out, standing| write_standing(out, standing, base));
        out.optional(delivery.attempts, |out, (replays, attempts)| {
            out.number(replays.into());
            out.number(attempts.into());
        });
        for named in [&delivery.provider, &delivery.sent_as] {
            out.optional(named.as_ref(), |out, (replays, at, name)| {
                out.number((*replays).into());
                out.signed(at.wrapping_sub(base));
                out.text(name);
            });
        }
        out.signed(delivery.updated_at.wrapping_sub(base));
        write_marks(out, &delivery.marks, base);
    }

    fn read_delivery(&self, read: &mut Decoder<'_>, base: i64) -> Option<Delivery> {
        let id = read.raw().map(u128::from_be_bytes)?;
        let recipient = match read.number()? {
            0 => None,
            1 => Some(read.text()?.into()),
            place => Some(self.recipients.get(usize::try_from(place - 2).ok()?)?.clone()),
        };
        Some(Delivery {
            id,
            recipient,
            channel: read.optional(Decoder::channel)?,
            contact: read.optional(|read| read.text().map(Into::into))?,
            standing: read.optional(|read| read_standing(read, base))?,
            attempts: read.optional(|read| Some((read_u32(read)?, read_u32(read)?)))?,
            provider: read.optional(|read| read_named(read, base))?,
            sent_as: read.optional(|read| read_named(read, base))?,
            updated_at: read.signed()?.wrapping_add(base),
            marks: read_marks(read, base)?,
        })
    }
}

fn write_intake(out: &mut Encoder, intake: &IntakePart) {
    out.number(intake.sequence);
    out.signed(intake.accepted_at);
    out.signed(intake.expires_at.wrapping_sub(intake.accepted_at));
    out.optional(intake.send_at, |out, at| out.signed(at.wrapping_sub(intake.accepted_at)));
    out.text(&intake.region);
    out.byte(intake.pinned.into());
    out.text(&intake.category);
    out.byte(intake.priority as u8);
    match from_hex(&intake.fingerprint) {
        Some(bytes) => {
            out.byte(1);
            out.raw(&bytes);
        }
        None => {
            out.byte(0);
            out.text(&intake.fingerprint);
        }
    }
}

fn read_intake(read: &mut Decoder<'_>) -> Option<IntakePart> {
    let sequence = read.number()?;
    let accepted_at = read.signed()?;
    Some(IntakePart {
        sequence,
        accepted_at,
        expires_at: read.signed()?.wrapping_add(accepted_at),
        send_at: read.optional(Decoder::signed)?.map(|at| at.wrapping_add(accepted_at)),
        region: read.text()?.into(),
        pinned: read.byte()? != 0,
        category: read.text()?.into(),
        priority: read.priority()?,
        fingerprint: match read.byte()? {
            1 => to_hex(&read.raw::<{ FINGERPRINT_DIGITS / 2 }>()?).into(),
            _ => read.text()?.into(),
        },
    })
}

fn write_standing(out: &mut Encoder, standing: &Standing, base: i64) {
    out.byte(standing.status as u8);
    out.number(standing.replays.into());
    out.signed(standing.at.wrapping_sub(base));
    out.optional(standing.reason.as_deref(), Encoder::text);
    out.optional(standing.until, |out, until| out.signed(until.wrapping_sub(base)));
}

fn read_standing(read: &mut Decoder<'_>, base: i64) -> Option<Standing> {
    let status = read.status()?;
    Some(Standing {
        status,
        replays: read_u32(read)?,
        at: read.signed()?.wrapping_add(base),
        reason: read.optional(|read| read.text().map(Into::into))?,
        until: read.optional(Decoder::signed)?.map(|until| until.wrapping_add(base)),
    })
}

fn write_marks(out: &mut Encoder, marks: &Marks, base: i64) {
    let all = [marks.seen, marks.opened, marks.clicked, marks.acknowledged];
    out.byte(
        all.iter().enumerate().fold(0, |bits, (place, mark)| bits | (u8::from(mark.is_some()) << place)),
    );
    for at in all.into_iter().flatten() {
        out.signed(at.wrapping_sub(base));
    }
}

fn read_marks(read: &mut Decoder<'_>, base: i64) -> Option<Marks> {
    let bits = read.byte()?;
    let mut all = [None; 4];
    for (place, mark) in all.iter_mut().enumerate() {
        if bits & (1 << place) != 0 {
            *mark = Some(read.signed()?.wrapping_add(base));
        }
    }
    let [seen, opened, clicked, acknowledged] = all;
    Some(Marks { seen, opened, clicked, acknowledged })
}

fn read_named(read: &mut Decoder<'_>, base: i64) -> Option<(u32, i64, Box<str>)> {
    Some((read_u32(read)?, read.signed()?.wrapping_add(base), read.text()?.into()))
}

fn read_u32(read: &mut Decoder<'_>) -> Option<u32> {
    u32::try_from(read.number()?).ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != FINGERPRINT_DIGITS {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4) | digit(pair[1])?)).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
