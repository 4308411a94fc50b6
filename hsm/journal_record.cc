#include "hsm/journal_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "shared/tuf/json.h"

namespace sealift::hsm {
namespace {

using nlohmann::json;

constexpr std::string_view kSignedPrefix = "sealift journal checkpoint 1\n";
constexpr std::uint64_t kMaxSequence = 1ull << 53;
constexpr std::uint64_t kMaxTime = 1ull << 53;
constexpr std::size_t kMaxName = 128;
constexpr std::size_t kMaxTlsKeys = 64;
constexpr auto kEvents =
    std::to_array<std::string_view>({"generated", "imported", "destroyed", "backed-up", "restored"});
constexpr auto kResults = std::to_array<std::string_view>({"ok", "failed", "unfinished"});
constexpr auto kTypes =
    std::to_array<std::string_view>({"begin", "key", "intent", "outcome", "recovery", "checkpoint"});
static_assert(kTypes.size() == std::variant_size_v<JournalBody>);

Status Damaged(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kJournalDamaged,
                   fmt::format("read journal record: {}", what));
}

bool IsJournalId(std::string_view text) {
  return text.size() == 32 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

json ToJson(const JournalCheckpoint& checkpoint, bool with_signature) {
  json object = {{"at", ToUnixMs(checkpoint.at)},   {"head", checkpoint.head.hex()},
                 {"journal", checkpoint.journal},   {"open", checkpoint.open},
                 {"sequence", checkpoint.sequence}, {"tls_handshakes", checkpoint.tls_handshakes}};
  for (const auto& [key, count] : checkpoint.handshakes_by_key) object["tls_keys"][key.hex()] = count;
  if (checkpoint.key_id.has_value()) {
    object["key_id"] = checkpoint.key_id->hex();
    if (with_signature) object["signature"] = Base64Encode(checkpoint.signature);
  }
  return object;
}

// Their sum is the total that stands beside them.
Status ReadHandshakes(tuf::ObjectReader& reader, JournalCheckpoint& checkpoint) {
  std::uint64_t sum = 0;
  for (const auto& [id, count] : reader.Object("tls_keys", kMaxTlsKeys).items()) {
    const auto key = Sha256Digest::FromHex(id);
    if (!key.ok() || !count.is_number_unsigned()) return Damaged("checkpoint: 'tls_keys' counts no keys");
    const auto made = count.get<std::uint64_t>();
    if (made == 0 || made > kMaxSequence) return Damaged("checkpoint: 'tls_keys' holds a count out of range");
    checkpoint.handshakes_by_key.emplace(*key, made);
    sum += made;
  }
  if (sum != checkpoint.tls_handshakes) return Damaged("checkpoint: 'tls_keys' adds up to another total");
  return OkStatus();
}

UnixMillis ReadTime(tuf::ObjectReader& reader) {
  return FromUnixMs(static_cast<std::int64_t>(reader.Unsigned("at", 0, kMaxTime)));
}

Result<JournalCheckpoint> CheckpointFromJson(const json& object) {
  tuf::ObjectReader reader(object, "checkpoint");
  JournalCheckpoint checkpoint;
  checkpoint.at = ReadTime(reader);
  checkpoint.head = reader.Digest("head");
  checkpoint.journal = reader.String("journal", 32);
  checkpoint.sequence = reader.Unsigned("sequence", 1, kMaxSequence);
  checkpoint.tls_handshakes = reader.Unsigned("tls_handshakes", 0, kMaxSequence);
  if (reader.Has("tls_keys")) SEALIFT_RETURN_IF_ERROR(ReadHandshakes(reader, checkpoint));
  for (const json& one : reader.Array("open", kMaxOpenIntents)) {
    if (!one.is_number_unsigned()) return Damaged("checkpoint: 'open' holds something else than numbers");
    checkpoint.open.push_back(one.get<std::uint64_t>());
  }
  if (reader.Has("key_id")) {
    checkpoint.key_id = reader.Digest("key_id");
    const auto signature = Base64Decode(reader.String("signature", 1024));
    if (!signature.ok()) return Damaged("checkpoint: 'signature' is not base64");
    checkpoint.signature = *signature;
  }
  if (!reader.ok()) return Damaged(MessageOf(reader.status()));
  if (!IsJournalId(checkpoint.journal)) return Damaged("checkpoint: 'journal' is no id");
  return checkpoint;
}

// The two lines of every signature, without building a tree: they are in the way of each. Members in byte
// order, as CompactJson has them.

std::string LineOf(const JournalRecord& record, const JournalIntent& body) {
  return fmt::format(
      R"({{"at":{},"digest":"{}","intent":{},"key":{},"key_id":"{}","previous":"{}","sequence":{},"type":"intent"}})",
      ToUnixMs(record.at), HexEncode(body.digest), json(body.intent).dump(), json(body.key_name).dump(),
      body.key_id.hex(), record.previous.hex(), record.sequence);
}

std::string LineOf(const JournalRecord& record, const JournalOutcome& body) {
  std::string reason;
  std::string signature;
  if (body.result == JournalResult::kFailed)
    reason = fmt::format(R"("reason":{},)", json(body.reason).dump());
  if (body.result == JournalResult::kOk) {
    signature = fmt::format(R"("signature_sha256":"{}",)", body.signature.hex());
  }
  return fmt::format(
      R"({{"at":{},"of":{},"previous":"{}",{}"result":"{}","sequence":{},{}"type":"outcome"}})",
      ToUnixMs(record.at), body.of, record.previous.hex(), reason, JournalResultName(body.result),
      record.sequence, signature);
}

// --- bodies: one Write and one Read each

void Write(const JournalBegin& body, json& object) {
  object["format"] = kJournalFormat;
  object["journal"] = body.journal;
}

void Write(const JournalKeyEvent& body, json& object) {
  object["event"] = body.event;
  object["key_id"] = body.key_id.hex();
  object["key"] = body.key_name;
  object["label"] = body.label;
}

void Write(const JournalRecovery& body, json& object) {
  object["cut_bytes"] = body.cut_bytes;
  object["cut_sha256"] = body.cut_digest.hex();
}

void Write(const JournalCheckpoint& body, json& object) { object["checkpoint"] = ToJson(body, true); }

template <typename Body>
std::string LineOf(const JournalRecord& record, const Body& body) {
  json object = {{"at", ToUnixMs(record.at)},
                 {"previous", record.previous.hex()},
                 {"sequence", record.sequence},
                 {"type", std::string(record.type())}};
  Write(body, object);
  return tuf::CompactJson(object);
}

JournalBody ReadBegin(tuf::ObjectReader& reader) {
  reader.Unsigned("format", kJournalFormat, kJournalFormat);
  JournalBegin body{.journal = reader.String("journal", 32)};
  if (!IsJournalId(body.journal)) reader.Problem("journal", "is no id");
  return body;
}

JournalBody ReadKeyEvent(tuf::ObjectReader& reader) {
  JournalKeyEvent body{.event = reader.String("event", kMaxName),
                       .key_id = reader.Digest("key_id"),
                       .key_name = reader.String("key", kMaxName),
                       .label = reader.String("label", kMaxName)};
  if (std::find(kEvents.begin(), kEvents.end(), body.event) == kEvents.end()) {
    reader.Problem("event", "is not known");
  }
  return body;
}

JournalBody ReadIntent(tuf::ObjectReader& reader) {
  JournalIntent body{.key_id = reader.Digest("key_id"),
                     .key_name = reader.String("key", kMaxName),
                     .intent = reader.String("intent", kMaxIntentBytes)};
  const auto digest = HexDecode(reader.String("digest", 128));
  if (!digest.ok()) {
    reader.Problem("digest", "is not hex");
  } else {
    body.digest = *digest;
  }
  return body;
}

JournalBody ReadOutcome(tuf::ObjectReader& reader) {
  JournalOutcome body{.of = reader.Unsigned("of", 1, kMaxSequence)};
  const std::string result = reader.String("result", kMaxName);
  const auto found = std::find(kResults.begin(), kResults.end(), result);
  if (found == kResults.end()) {
    reader.Problem("result", "is not known");
    return body;
  }
  body.result = static_cast<JournalResult>(found - kResults.begin());
  if (body.result == JournalResult::kOk) body.signature = reader.Digest("signature_sha256");
  if (body.result == JournalResult::kFailed) body.reason = reader.String("reason", kMaxName);
  return body;
}

JournalBody ReadRecovery(tuf::ObjectReader& reader) {
  return JournalRecovery{.cut_bytes = reader.Unsigned("cut_bytes", 1, kMaxSequence),
                         .cut_digest = reader.Digest("cut_sha256")};
}

JournalBody ReadCheckpoint(tuf::ObjectReader& reader) {
  auto checkpoint = CheckpointFromJson(reader.Object("checkpoint", 16));
  if (checkpoint.ok()) return *std::move(checkpoint);
  reader.Problem("checkpoint", MessageOf(checkpoint.status()));
  return JournalCheckpoint{};
}

// In the order of kTypes.
constexpr auto kReaders = std::to_array<JournalBody (*)(tuf::ObjectReader&)>(
    {ReadBegin, ReadKeyEvent, ReadIntent, ReadOutcome, ReadRecovery, ReadCheckpoint});

}  // namespace

std::string_view JournalResultName(JournalResult result) {
  return kResults[static_cast<std::size_t>(result)];
}

Bytes JournalCheckpoint::SignedBytes() const {
  Bytes bytes = ToBytes(kSignedPrefix);
  Append(bytes, AsBytes(tuf::CompactJson(ToJson(*this, false))));
  return bytes;
}

std::string JournalCheckpoint::Json() const { return tuf::CompactJson(ToJson(*this, true)); }

Result<JournalCheckpoint> JournalCheckpoint::Parse(std::string_view text) {
  const auto parsed = tuf::ParseJson(text, {.max_bytes = kMaxJournalLineBytes, .max_depth = 3});
  auto checkpoint = parsed.ok() ? CheckpointFromJson(*parsed) : Result<JournalCheckpoint>(parsed.status());
  if (checkpoint.ok()) return checkpoint;
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("read checkpoint: {}", MessageOf(checkpoint.status())));
}

Status JournalCheckpoint::Verify(const PublicKey& key) const {
  const auto refuse = [&](std::string_view what) {
    return MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                     fmt::format("verify checkpoint {}: {}", sequence, what));
  };
  if (!key_id.has_value()) return refuse("it is not signed");
  if (*key_id != key.key_id()) return refuse(fmt::format("key {} signed it", key_id->hex().substr(0, 16)));
  if (!key.VerifyMessage(SignedBytes(), signature, key.default_scheme()).ok()) {
    return refuse("its signature is not by the journal key");
  }
  return OkStatus();
}

std::string_view JournalRecord::type() const { return kTypes[body.index()]; }

std::string JournalRecord::Line() const {
  return std::visit([&](const auto& one) { return LineOf(*this, one); }, body);
}

Result<JournalRecord> JournalRecord::Parse(std::string_view line) {
  const auto parsed = tuf::ParseJson(line, {.max_bytes = kMaxJournalLineBytes, .max_depth = 4});
  if (!parsed.ok()) return Damaged(MessageOf(parsed.status()));
  tuf::ObjectReader reader(*parsed, "record");
  JournalRecord record{.sequence = reader.Unsigned("sequence", 1, kMaxSequence),
                       .previous = reader.Digest("previous"),
                       .at = ReadTime(reader),
                       .body = {}};
  const std::string type = reader.String("type", kMaxName);
  const auto found = std::find(kTypes.begin(), kTypes.end(), type);
  if (found == kTypes.end()) {
    reader.Problem("type", "is not known");
  } else {
    record.body = kReaders[static_cast<std::size_t>(found - kTypes.begin())](reader);
  }
  if (!reader.ok()) return Damaged(MessageOf(reader.status()));
  if (record.Line() != line) return Damaged("it is not written as this program writes it");
  return record;
}

std::string CleanIntent(std::string_view text) {
  std::string clean(text.substr(0, kMaxIntentBytes));
  // Not in the middle of a character: back over what would be left of it.
  if (text.size() > clean.size()) {
    while (!clean.empty() && (static_cast<std::uint8_t>(text[clean.size()]) & 0xc0) == 0x80) clean.pop_back();
  }
  for (char& c : clean) {
    if (static_cast<std::uint8_t>(c) < 0x20 || c == 0x7f || c == '"' || c == '\\') c = c == '"' ? '\'' : '?';
  }
  const bool ascii = std::all_of(clean.begin(), clean.end(), [](char c) { return (c & 0x80) == 0; });
  if (ascii || json::accept("\"" + clean + "\"")) return clean;
  for (char& c : clean) {
    if ((c & 0x80) != 0) c = '?';
  }
  return clean;
}

}  // namespace sealift::hsm
