#include "shared/tuf/metadata.h"

#include <gtest/gtest.h>

#include "shared/crypto/hash.h"
#include "shared/tuf/json.h"

namespace sealift::tuf {
namespace {

using nlohmann::json;

std::unique_ptr<SoftwareSigner> NewSigner(KeyType type = KeyType::kEcP256) {
  return SoftwareSigner::Generate(type).value();
}

const UnixMillis kExpires = ParseRfc3339("2030-01-02T03:04:05Z").value();

Root RootOf(const PublicKey& key) {
  return MakeRoot(
      1, kExpires,
      {{Role::kRoot, key}, {Role::kTargets, key}, {Role::kSnapshot, key}, {Role::kTimestamp, key}});
}

TEST(CanonicalJson, EscapesOnlyQuoteAndBackslashAndSortsByBytes) {
  const json value = json::parse(R"({"b":[1,-2,true,null],"a":"x\"y\\z\n\u00e9","B":{}})");
  EXPECT_EQ(CanonicalJson(value).value(), "{\"B\":{},\"a\":\"x\\\"y\\\\z\n\u00e9\",\"b\":[1,-2,true,null]}");
  EXPECT_FALSE(CanonicalJson(json(1.5)).ok());
}

TEST(ParseJson, IsBounded) {
  const JsonLimits limits{.max_bytes = 64, .max_depth = 3};
  EXPECT_TRUE(ParseJson("[[[1]]]", limits).ok());
  EXPECT_EQ(ReasonOf(ParseJson("[[[[1]]]]", limits).status()), Reason::kTufMalformed);
  EXPECT_TRUE(ParseJson(R"(["[[[[\"[[["])", limits).ok());
  EXPECT_EQ(ReasonOf(ParseJson(std::string(65, ' '), limits).status()), Reason::kTufTooLarge);
  EXPECT_EQ(ReasonOf(ParseJson(R"({"a":1,"a":1})", limits).status()), Reason::kTufMalformed);
  EXPECT_TRUE(ParseJson(R"({"a":{"a":1},"b":{"a":1}})", limits).ok());
  EXPECT_EQ(ReasonOf(ParseJson("\"\xff\"", limits).status()), Reason::kTufMalformed);
  EXPECT_EQ(ReasonOf(ParseJson("1 1", limits).status()), Reason::kTufMalformed);
}

TEST(Metadata, RootSurvivesItsFile) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kRsa}) {
    const auto signer = NewSigner(type);
    Envelope file = MakeEnvelope(RootOf(signer->public_key()));
    ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "version 1").ok());
    const Envelope read = ParseEnvelope(file.Serialize(), kMaxRootBytes).value();
    EXPECT_EQ(read.signed_bytes, file.signed_bytes);
    const Result<Root> root = ParseRoot(read);
    ASSERT_TRUE(root.ok()) << Describe(root.status());
    EXPECT_EQ(root->expires, kExpires);
    EXPECT_TRUE(root->consistent_snapshot);
    EXPECT_EQ(root->keys.size(), 1u);
    EXPECT_TRUE(VerifyThreshold(read, *root, Role::kRoot).ok());
  }
}

TEST(Metadata, OtherRolesSurviveTheirFiles) {
  Targets targets{.version = 7, .expires = kExpires, .targets = {}};
  targets.targets["stable/1/x"] = {
      .length = 5, .sha256 = Sha256(AsBytes("hello")), .custom = R"({"role":"uki"})"};
  const Targets read = ParseTargets(MakeEnvelope(targets)).value();
  EXPECT_EQ(read.version, 7u);
  EXPECT_EQ(read.targets.at("stable/1/x").custom, R"({"role":"uki"})");
  EXPECT_EQ(read.targets.at("stable/1/x").sha256, Sha256(AsBytes("hello")));

  Snapshot snapshot{.version = 3, .expires = kExpires, .meta = {}};
  snapshot.meta["targets.json"] = {.version = 7, .length = 100, .sha256 = Sha256(AsBytes("t"))};
  EXPECT_EQ(ParseSnapshot(MakeEnvelope(snapshot))->meta.at("targets.json").length, 100u);

  const Timestamp timestamp{.version = 9,
                            .expires = kExpires,
                            .snapshot = {.version = 3, .length = std::nullopt, .sha256 = std::nullopt},
                            .signed_at = ParseRfc3339("2029-12-31T00:00:00Z").value(),
                            .journal_checkpoint = R"({"head":"00","sequence":4})"};
  const Timestamp back = ParseTimestamp(MakeEnvelope(timestamp)).value();
  EXPECT_EQ(back.snapshot.version, 3u);
  EXPECT_FALSE(back.snapshot.length.has_value());
  EXPECT_EQ(back.signed_at, ParseRfc3339("2029-12-31T00:00:00Z").value());
  EXPECT_EQ(back.journal_checkpoint, R"({"head":"00","sequence":4})");
}

TEST(Metadata, SigningAgainReplacesTheSignature) {
  const auto signer = NewSigner();
  Envelope file = MakeEnvelope(RootOf(signer->public_key()));
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "version 1").ok());
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "version 1").ok());
  EXPECT_EQ(file.signatures.size(), 1u);
}

TEST(Metadata, ThresholdCountsDistinctKeysOfTheRoleOnly) {
  const auto one = NewSigner();
  const auto two = NewSigner();
  const auto stranger = NewSigner();
  Root root = RootOf(one->public_key());
  const Key second = Key::FromPublicKey(two->public_key());
  root.keys[second.id] = second;
  root.roles[Role::kRoot].key_ids.push_back(second.id);
  root.roles[Role::kRoot].threshold = 2;
  Envelope file = MakeEnvelope(root);
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *one, "").ok());
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *stranger, "").ok());
  EXPECT_EQ(ReasonOf(VerifyThreshold(file, root, Role::kRoot)), Reason::kTufSignatureThreshold);
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *two, "").ok());
  EXPECT_TRUE(VerifyThreshold(file, root, Role::kRoot).ok());
  file.signatures.front().signature.back() ^= 1;
  EXPECT_EQ(ReasonOf(VerifyThreshold(file, root, Role::kRoot)), Reason::kTufSignatureThreshold);
  // Two is no timestamp key.
  file.signatures.erase(file.signatures.begin());
  EXPECT_EQ(ReasonOf(VerifyThreshold(file, root, Role::kTimestamp)), Reason::kTufSignatureThreshold);
}

TEST(Metadata, OneKeyWrittenInTwoWaysCountsOnce) {
  const auto signer = NewSigner();
  Root root = RootOf(signer->public_key());
  const std::string first_id = root.roles.at(Role::kRoot).key_ids.front();
  json padded = json::parse(root.keys.at(first_id).key_json);
  padded["keyval"]["public"] = padded["keyval"]["public"].get<std::string>() + "\n";
  Key twin = root.keys.at(first_id);
  twin.key_json = padded.dump();
  twin.id = Sha256(AsBytes(CanonicalJson(padded).value())).hex();
  root.keys[twin.id] = twin;
  root.roles[Role::kRoot] = {.key_ids = {first_id, twin.id}, .threshold = 2};
  Envelope file = MakeEnvelope(root);
  const Root parsed = ParseRoot(file).value();
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "").ok());
  file.signatures.push_back({.key_id = twin.id, .signature = file.signatures.front().signature});
  EXPECT_EQ(ReasonOf(VerifyThreshold(file, parsed, Role::kRoot)), Reason::kTufSignatureThreshold);
}

TEST(Metadata, UnknownKeyTypeIsCarriedButNeverCounted) {
  const auto signer = NewSigner();
  json value = json::parse(MakeEnvelope(RootOf(signer->public_key())).signed_json);
  const json alien = {{"keytype", "sphincs"}, {"scheme", "sphincs-x"}, {"keyval", {{"public", "00"}}}};
  const std::string id = Sha256(AsBytes(CanonicalJson(alien).value())).hex();
  value["keys"][id] = alien;
  value["roles"]["root"]["keyids"].push_back(id);
  const Result<Root> root = ParseRoot(Envelope{value.dump(), CanonicalJson(value).value(), {}});
  ASSERT_TRUE(root.ok()) << Describe(root.status());
  EXPECT_FALSE(root->keys.at(id).verifier.has_value());
}

TEST(Metadata, MembersUnknownToUsStaySigned) {
  const auto signer = NewSigner();
  json value = json::parse(MakeEnvelope(RootOf(signer->public_key())).signed_json);
  value["x-later"] = {{"line", "a\nb"}};
  Envelope file{value.dump(), CanonicalJson(value).value(), {}};
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "").ok());
  Envelope read = ParseEnvelope(file.Serialize(), kMaxRootBytes).value();
  const Root root = ParseRoot(read).value();
  EXPECT_TRUE(VerifyThreshold(read, root, Role::kRoot).ok());
}

struct BadRoot {
  const char* pointer;
  json value;
  Reason reason = Reason::kTufMalformed;
};

TEST(Metadata, RefusesWrongRoots) {
  const auto signer = NewSigner();
  const json good = json::parse(MakeEnvelope(RootOf(signer->public_key())).signed_json);
  ASSERT_TRUE(ParseRoot(Envelope{good.dump(), CanonicalJson(good).value(), {}}).ok());
  const std::string id = good["roles"]["root"]["keyids"][0];
  const std::vector<BadRoot> cases = {
      {"/_type", "targets"},
      {"/spec_version", "2.0.0", Reason::kTufSpecUnsupported},
      {"/spec_version", "one"},
      {"/version", 0},
      {"/version", -1},
      {"/version", 2147483648u},
      {"/version", "1"},
      {"/version", 1.0},
      {"/expires", "2030-01-02"},
      {"/expires", 5},
      {"/consistent_snapshot", "yes"},
      {"/keys", json::array()},
      {"/keys", json::object()},
      {"/roles", json::object()},
      {"/roles/root/threshold", 0},
      {"/roles/root/keyids", json::array({id, id})},
      {"/roles/root/keyids", json::array({std::string(64, '0')})},
      {"/roles/snapshot", nullptr},
  };
  for (const BadRoot& bad : cases) {
    json value = good;
    value[json::json_pointer(bad.pointer)] = bad.value;
    const Envelope envelope{value.dump(), "", {}};
    EXPECT_EQ(ReasonOf(ParseRoot(envelope).status()), bad.reason) << bad.pointer << " = " << bad.value;
  }
}

// Other repositories add members to a key and leave its id; the file that lists it is signed as a whole.
TEST(Metadata, KeyIdIsANameOnly) {
  const auto signer = NewSigner();
  json value = json::parse(MakeEnvelope(RootOf(signer->public_key())).signed_json);
  const std::string id = value["roles"]["root"]["keyids"][0];
  value["keys"][id]["x-owner"] = "somebody";
  Envelope file{value.dump(), CanonicalJson(value).value(), {}};
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "").ok());
  const Result<Root> root = ParseRoot(file);
  ASSERT_TRUE(root.ok()) << Describe(root.status());
  EXPECT_TRUE(VerifyThreshold(file, *root, Role::kRoot).ok());
}

TEST(Metadata, MoreSignaturesThanKeysAreNeverThere) {
  const auto signer = NewSigner();
  Root root = RootOf(signer->public_key());
  root.roles[Role::kSnapshot].threshold = 2;
  root.roles[Role::kTimestamp].key_ids.clear();
  Envelope file = MakeEnvelope(root);
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "").ok());
  const Result<Root> read = ParseRoot(file);
  ASSERT_TRUE(read.ok()) << Describe(read.status());
  EXPECT_TRUE(VerifyThreshold(file, *read, Role::kRoot).ok());
  EXPECT_EQ(ReasonOf(VerifyThreshold(file, *read, Role::kSnapshot)), Reason::kTufSignatureThreshold);
  EXPECT_EQ(ReasonOf(VerifyThreshold(file, *read, Role::kTimestamp)), Reason::kTufSignatureThreshold);
}

TEST(Metadata, SignatureThatIsNoneDoesNoHarm) {
  const auto signer = NewSigner();
  const auto other = NewSigner();
  Root root = RootOf(signer->public_key());
  const Key second = Key::FromPublicKey(other->public_key());
  root.keys[second.id] = second;
  root.roles[Role::kRoot].key_ids.push_back(second.id);
  Envelope file = MakeEnvelope(root);
  ASSERT_TRUE(SignMetadata(Role::kRoot, file, *signer, "").ok());
  for (const char* rubbish : {"", "0", "xyz", "3045"}) {
    json text = json::parse(file.Serialize());
    text["signatures"].push_back({{"keyid", second.id}, {"sig", rubbish}});
    const Result<Envelope> read = ParseEnvelope(text.dump(), kMaxRootBytes);
    ASSERT_TRUE(read.ok()) << Describe(read.status());
    EXPECT_TRUE(VerifyThreshold(*read, root, Role::kRoot).ok()) << rubbish;
    root.roles[Role::kRoot].threshold = 2;
    EXPECT_FALSE(VerifyThreshold(*read, root, Role::kRoot).ok()) << rubbish;
    root.roles[Role::kRoot].threshold = 1;
  }
}

TEST(Metadata, RefusesWrongEnvelopes) {
  for (const char* text :
       {"", "{}", "[]", R"({"signed":{}})", R"({"signatures":[]})", R"({"signed":[],"signatures":[]})",
        R"({"signed":{},"signatures":{}})", R"({"signed":{},"signatures":[{"keyid":"a"}]})",
        R"({"signed":{"a":1.5},"signatures":[]})",
        R"({"signed":{},"signatures":[{"keyid":"a","sig":"00"},{"keyid":"a","sig":"01"}]})"}) {
    EXPECT_EQ(ReasonOf(ParseEnvelope(text, 1000).status()), Reason::kTufMalformed) << text;
  }
  EXPECT_EQ(ReasonOf(ParseEnvelope(std::string(1001, ' '), 1000).status()), Reason::kTufTooLarge);
}

TEST(Metadata, RefusesWrongTargetsSnapshotsAndTimestamps) {
  const auto targets = [](const char* body) {
    const std::string text =
        std::string(
            R"({"_type":"targets","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","targets":)") +
        body + "}";
    return ReasonOf(ParseTargets(Envelope{text, "", {}}).status());
  };
  const std::string digest(64, 'a');
  EXPECT_EQ(targets("{}"), Reason::kNone);
  EXPECT_EQ(targets((R"({"x":{"length":1,"hashes":{"sha256":")" + digest + R"("}}})").c_str()),
            Reason::kNone);
  EXPECT_EQ(targets("[]"), Reason::kTufMalformed);
  EXPECT_EQ(targets((R"({"":{"length":1,"hashes":{"sha256":")" + digest + R"("}}})").c_str()),
            Reason::kTufMalformed);
  EXPECT_EQ(targets(R"({"x":{"length":1,"hashes":{"sha256":"aa"}}})"), Reason::kTufMalformed);
  EXPECT_EQ(targets(R"({"x":{"length":1,"hashes":{}}})"), Reason::kTufMalformed);
  EXPECT_EQ(targets(R"({"x":{"length":1,"hashes":{"sha512":"aa"}}})"), Reason::kNone) << "carried, unusable";
  EXPECT_EQ(targets((R"({"x":{"length":-1,"hashes":{"sha256":")" + digest + R"("}}})").c_str()),
            Reason::kTufMalformed);
  EXPECT_EQ(targets((R"({"x":{"length":1,"custom":3,"hashes":{"sha256":")" + digest + R"("}}})").c_str()),
            Reason::kTufMalformed);

  const auto meta = [](const char* type, const char* body) {
    const std::string text =
        std::string(R"({"_type":")") + type +
        R"(","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","meta":)" + body + "}";
    const Envelope envelope{text, "", {}};
    return std::string_view(type) == "snapshot" ? ReasonOf(ParseSnapshot(envelope).status())
                                                : ReasonOf(ParseTimestamp(envelope).status());
  };
  EXPECT_EQ(meta("snapshot", R"({"targets.json":{"version":1}})"), Reason::kNone);
  EXPECT_EQ(meta("snapshot", R"({})"), Reason::kTufMalformed);
  EXPECT_EQ(meta("snapshot", R"({"targets.json":{"version":0}})"), Reason::kTufMalformed);
  EXPECT_EQ(meta("snapshot", R"({"targets.json":{"version":1,"length":0}})"), Reason::kTufMalformed);
  EXPECT_EQ(meta("timestamp", R"({"snapshot.json":{"version":1}})"), Reason::kNone);
  EXPECT_EQ(meta("timestamp", R"({"targets.json":{"version":1}})"), Reason::kTufMalformed);
  EXPECT_EQ(meta("timestamp", R"({"snapshot.json":{"version":1},"b":{"version":1}})"), Reason::kTufMalformed);
}

}  // namespace
}  // namespace sealift::tuf
