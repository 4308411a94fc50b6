#include "hsm/key_maker.h"

#include <fmt/format.h>

#include <utility>

#include "hsm/set_marker.h"
#include "hsm/token_signer.h"
#include "shared/base/log.h"

namespace sealift::hsm {

Status KeyMaker::Plan(const Role& role, std::uint32_t generation, std::shared_ptr<Token> token,
                      std::optional<KeyAlgorithm> wanted) {
  PlannedKey plan{.role = &role, .generation = generation, .token = std::move(token)};
  if (wanted.has_value()) {
    SEALIFT_RETURN_IF_ERROR(CheckAlgorithm(role, *wanted));
    plan.algorithm = *wanted;
  } else {
    SEALIFT_ASSIGN_OR_RETURN(const bool has_ec, plan.token->keys().HasEc());
    SEALIFT_ASSIGN_OR_RETURN(plan.algorithm, AlgorithmFor(role, has_ec));
  }
  if (const Status able = plan.token->keys().CheckMechanisms(plan.algorithm, role.use); !able.ok()) {
    return Annotate(able, fmt::format("make key '{}' of group '{}'", role.name, GroupName(role.group)));
  }
  SEALIFT_ASSIGN_OR_RETURN(plan.left, FindLeft(plan, KeyLabel(set_, role.name, generation)));
  plans_.push_back(std::move(plan));
  return OkStatus();
}

Result<std::optional<PublicKey>> KeyMaker::FindLeft(const PlannedKey& plan, const std::string& label) {
  Token& token = *plan.token;
  SEALIFT_ASSIGN_OR_RETURN(const auto taken, token.keys().FindByLabel(label));
  if (taken.empty()) return std::optional<PublicKey>();
  SEALIFT_ASSIGN_OR_RETURN(const bool unfinished, HasSetMarker(*token.pool(), mark_));
  if (!unfinished || taken.size() > 1) {
    return MakeError(Code::kAlreadyExists, Reason::kHsmKeyExists,
                     fmt::format("{}: token '{}' holds '{}' already", what_, token.label(), label));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, Sha256Digest::FromBytes(taken.front().id));
  SEALIFT_ASSIGN_OR_RETURN(const KeyCustody custody, token.keys().ReadCustody(id));
  SEALIFT_ASSIGN_OR_RETURN(PublicKey key, token.keys().ReadPublicHalf(id));
  const bool kept = leaving_ == Leaving::kWrapped ? custody.local == true && custody.extractable == true
                                                  : custody.born_in_token() && custody.extractable == false;
  if (kept && AlgorithmOf(key) == plan.algorithm) {
    return std::optional<PublicKey>(std::move(key));
  }
  return MakeError(
      Code::kAlreadyExists, Reason::kHsmKeyExists,
      fmt::format("make key '{}' of group '{}': '{}', left in token '{}' by an earlier run, is no such key",
                  plan.role->name, GroupName(plan.role->group), label, token.label()));
}

std::set<std::shared_ptr<Token>> KeyMaker::Tokens() const {
  std::set<std::shared_ptr<Token>> tokens;
  for (const PlannedKey& plan : plans_) tokens.insert(plan.token);
  return tokens;
}

Status KeyMaker::Mark() {
  for (const auto& token : Tokens()) SEALIFT_RETURN_IF_ERROR(PlaceSetMarker(*token->pool(), mark_).status());
  return OkStatus();
}

Status KeyMaker::Unmark() {
  for (const auto& token : Tokens()) SEALIFT_RETURN_IF_ERROR(RemoveSetMarker(*token->pool(), mark_));
  return OkStatus();
}

Result<const MadeKey*> KeyMaker::MakeNext(Journal& journal) {
  if (made_.size() == plans_.size()) return nullptr;
  const PlannedKey& plan = plans_[made_.size()];
  const Role& role = *plan.role;
  const std::string label = KeyLabel(set_, role.name, plan.generation);
  progress_(
      fmt::format("{} ({}) in token '{}'", role.name, AlgorithmName(plan.algorithm), plan.token->label()));
  auto key = plan.left.has_value() ? *plan.left
                                   : plan.token->keys().Generate(plan.algorithm, role.use, label,
                                                                 KeyStore::Placement::kBest, leaving_);
  if (!key.ok()) return key.status();
  const Sha256Digest id = key->key_id();
  // From here on TakeBack knows it.
  made_.push_back(
      std::make_unique<MadeKey>(MadeKey{.entry = {.role = std::string(role.name),
                                                  .group = role.group,
                                                  .generation = plan.generation,
                                                  .algorithm = plan.algorithm,
                                                  .key_id = id,
                                                  .label = label,
                                                  .token_uri = plan.token->uri().TokenOnly().Text()},
                                        .public_key = *std::move(key),
                                        .signer = nullptr,
                                        .token = plan.token}));
  MadeKey& made = *made_.back();
  SEALIFT_ASSIGN_OR_RETURN(const KeyCustody custody, plan.token->keys().ReadCustody(id));
  made.entry.born_in_token = custody.born_in_token();
  made.entry.wrappable = leaving_ == Leaving::kWrapped;
  const std::string name = KeyName(role.name, plan.generation);
  journal.NameKey(id, name);
  SEALIFT_RETURN_IF_ERROR(
      journal.RecordKeyEvent({.event = "generated", .key_id = id, .key_name = name, .label = label}));
  if (role.use == KeyUse::kSign) {
    SEALIFT_ASSIGN_OR_RETURN(made.signer, TokenSigner::Open(plan.token, id));
  }
  return &made;
}

std::optional<Sha256Digest> KeyMaker::KeyOf(std::size_t plan) const {
  if (plan < made_.size()) return made_[plan]->entry.key_id;
  if (plans_[plan].left.has_value()) return plans_[plan].left->key_id();
  return std::nullopt;
}

Status KeyMaker::Keep(const Status& why) const {
  std::set<std::string> labels;
  for (const auto& token : Tokens()) labels.insert(fmt::format("'{}'", token->label()));
  return Annotate(why, fmt::format("{}, of which some files are written; its new keys stay in token {} until "
                                   "the same is made again, which takes them over",
                                   what_, fmt::join(labels, ", ")));
}

Status KeyMaker::TakeBack(const Status& why, Journal* journal) {
  std::set<std::string> staying;
  for (const auto& token : Tokens()) {
    bool all_gone = true;
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      const auto id = KeyOf(i);
      if (plans_[i].token != token || !id.has_value()) continue;
      const auto gone = token->keys().Destroy(*id);
      all_gone = all_gone && gone.ok() && *gone;
      if (journal == nullptr || !gone.ok() || !*gone) continue;
      const Status recorded =
          journal->RecordKeyEvent({.event = "destroyed",
                                   .key_id = *id,
                                   .key_name = KeyName(plans_[i].role->name, plans_[i].generation),
                                   .label = KeyLabel(set_, plans_[i].role->name, plans_[i].generation)});
      if (!recorded.ok()) log::Warning("a destroyed key was not recorded", {{"error", MessageOf(recorded)}});
    }
    if (all_gone && RemoveSetMarker(*token->pool(), mark_).ok()) continue;
    // Also when writing failed, after the marks were taken away.
    const auto marked = PlaceSetMarker(*token->pool(), mark_);
    staying.insert(fmt::format("'{}'{}", token->label(), marked.ok() && *marked ? "" : " (for good)"));
  }
  if (staying.empty()) return Annotate(why, what_ + ", whose first keys were destroyed again");
  return Annotate(why, fmt::format("{}, whose first keys stay in token {} until the same set is made again, "
                                   "which takes them over",
                                   what_, fmt::join(staying, ", ")));
}

}  // namespace sealift::hsm
