#include "controller/api/fleet_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "controller/api/upload.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::uint32_t kDefaultPage = 100;
constexpr std::uint32_t kMaxPage = 1000;
constexpr std::size_t kMaxNoteBytes = 512;
constexpr std::size_t kMaxKeyBytes = 128;
constexpr std::uint64_t kMaxManifestBytes = 1u << 20;
// Nodes a rollout may hold: its waves are one message.
constexpr std::size_t kMaxRolloutNodes = 50'000;
constexpr int kMaxWatchers = 64;
// How soon a watcher that left is noticed.
constexpr auto kWatchPatience = std::chrono::seconds(1);

std::string NotAudited() { return {}; }

std::size_t PageSize(std::uint32_t asked) { return asked == 0 ? kDefaultPage : std::min(asked, kMaxPage); }

std::string HexOf(const std::string& bytes) {
  return HexEncode(AsBytes(std::string_view(bytes).substr(0, 64)));
}

std::string LabelText(const google::protobuf::Map<std::string, std::string>& labels) {
  std::string out;
  for (const auto& [key, value] : std::map<std::string, std::string>(labels.begin(), labels.end())) {
    out += fmt::format("{}{}={}", out.empty() ? "" : ",", key, value);
  }
  return out;
}

}  // namespace

namespace {

Status RecordRelease(const ListedRelease& listed, const TufRepository& repository, ContentStore& content,
                     ReleaseStore& releases) {
  const auto known = releases.Get(listed.channel, listed.version);
  if (known.ok() && known->release_id == listed.id) return OkStatus();
  if (!known.ok() && known.status().code() != Code::kNotFound) return known.status();
  SEALIFT_ASSIGN_OR_RETURN(const PublishedRelease release,
                           repository.LoadRelease(listed.channel, listed.version));
  // The bytes themselves: written again they would lose what a newer builder said beside.
  SEALIFT_ASSIGN_OR_RETURN(const Bytes manifest, content.ReadAll(listed.id.digest, kMaxManifestBytes));
  return releases.Put({.channel = listed.channel,
                       .version = listed.version,
                       .release_id = listed.id,
                       .published = listed.published.value_or(release.manifest().built),
                       .total_bytes = listed.total_bytes,
                       .manifest_json = ToText(manifest)});
}

}  // namespace

Status RecordReleases(const TufRepository& repository, ContentStore& content, ReleaseStore& releases) {
  Status first;
  for (const ListedRelease& listed : repository.Releases()) {
    const Status recorded = RecordRelease(listed, repository, content, releases);
    if (recorded.ok()) continue;
    log::Error("release not recorded", {{"release", fmt::format("{} {}", listed.channel, listed.version)},
                                        {"error", Describe(recorded)}});
    if (first.ok()) first = recorded;
  }
  return first;
}

grpc::Status FleetServiceImpl::ListNodes(grpc::ServerContext* context, const v1::ListNodesRequest* request,
                                         v1::ListNodesResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/ListNodes", NotAudited, [&](const Caller&) -> Status {
        NodeQuery query{.after_id = request->page_token(), .limit = PageSize(request->page_size()) + 1};
        SEALIFT_ASSIGN_OR_RETURN(query.selector, Selector::Parse(request->selector()));
        SEALIFT_ASSIGN_OR_RETURN(auto nodes, parts_.nodes.List(query));
        if (nodes.size() == query.limit) {
          nodes.pop_back();
          response->set_next_page_token(nodes.back().id.text());
        }
        for (const Node& node : nodes) *response->add_nodes() = ToProto(node);
        return OkStatus();
      });
}

Result<Node> FleetServiceImpl::FindNode(const std::string& id_or_prefix) {
  SEALIFT_RETURN_IF_ERROR(CheckText("id", id_or_prefix, kMaxKeyBytes));
  SEALIFT_ASSIGN_OR_RETURN(auto nodes, parts_.nodes.List({.id_prefix = id_or_prefix, .limit = 2}));
  if (nodes.empty() || id_or_prefix.empty()) {
    return MakeError(Code::kNotFound, Reason::kNodeUnknown, fmt::format("find node '{}'", id_or_prefix));
  }
  if (nodes.size() > 1) {
    return MakeError(Code::kInvalidArgument, Reason::kNodeIdAmbiguous,
                     fmt::format("find node '{}': {} and {} start so", id_or_prefix, nodes[0].id.text(),
                                 nodes[1].id.text()));
  }
  return std::move(nodes.front());
}

grpc::Status FleetServiceImpl::GetNode(grpc::ServerContext* context, const v1::GetNodeRequest* request,
                                       v1::Node* response) {
  return parts_.runner.Run(*context, "/sealift.v1.FleetService/GetNode", NotAudited,
                           [&](const Caller&) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const Node node, FindNode(request->id()));
                             *response = ToProto(node);
                             SEALIFT_ASSIGN_OR_RETURN(const auto escrowed, parts_.escrow.List(node.id));
                             for (const EscrowedKey& key : escrowed)
                               *response->add_escrowed_keys() = ToProto(key);
                             return OkStatus();
                           });
}

grpc::Status FleetServiceImpl::ListReleases(grpc::ServerContext* context,
                                            const v1::ListReleasesRequest* request,
                                            v1::ListReleasesResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/ListReleases", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const auto releases, parts_.releases.List(request->channel()));
        for (const ReleaseRecord& release : releases) *response->add_releases() = ToProto(release);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::GetRollout(grpc::ServerContext* context, const v1::GetRolloutRequest* request,
                                          v1::Rollout* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/GetRollout", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const Rollout rollout, parts_.rollouts.Get(request->id()));
        *response = ToProto(rollout);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::ListRollouts(grpc::ServerContext* context,
                                            const v1::ListRolloutsRequest* request,
                                            v1::ListRolloutsResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/ListRollouts", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const auto rollouts,
                                 parts_.rollouts.ListNewest(PageSize(request->page_size())));
        for (const RolloutSummary& rollout : rollouts) *response->add_rollouts() = ToProto(rollout);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::WatchRollout(grpc::ServerContext* context,
                                            const v1::GetRolloutRequest* request,
                                            grpc::ServerWriter<v1::Rollout>* writer) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/WatchRollout", NotAudited, [&](const Caller&) -> Status {
        // Each watcher holds a thread of the server.
        if (++watchers_ > kMaxWatchers) {
          --watchers_;
          return MakeError(Code::kResourceExhausted, Reason::kServerBusy, "watch rollout: too many watchers");
        }
        const Status status = Watch(request->id(), *context, *writer);
        --watchers_;
        return status;
      });
}

Status FleetServiceImpl::Watch(const std::string& id, grpc::ServerContext& context,
                               grpc::ServerWriter<v1::Rollout>& writer) {
  std::optional<std::uint64_t> told;
  std::string full_id;
  while (!context.IsCancelled()) {
    // Before the read: a change after it is seen in the next round.
    const std::uint64_t generation = parts_.engine.generation();
    bool ended = false;
    bool changed = true;
    if (told) {
      // Without its nodes, which may be tens of thousands.
      SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t revision, parts_.rollouts.Revision(full_id));
      changed = revision != *told;
    }
    if (changed) {
      SEALIFT_ASSIGN_OR_RETURN(const Rollout rollout, parts_.rollouts.Get(told ? full_id : id));
      if (!writer.Write(ToProto(rollout))) break;
      told = rollout.revision;
      full_id = rollout.id;
      ended = rollout.ended();
    }
    if (ended) return OkStatus();
    parts_.engine.WaitForChange(generation, kWatchPatience, parts_.stop);
    if (parts_.stop.stop_requested()) {
      return MakeError(Code::kUnavailable, Reason::kCancelled, "watch rollout: the controller shuts down");
    }
  }
  return MakeError(Code::kCancelled, Reason::kCancelled, "watch rollout: the operator left");
}

grpc::Status FleetServiceImpl::ListAudit(grpc::ServerContext* context, const v1::ListAuditRequest* request,
                                         v1::ListAuditResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/ListAudit", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(
            const auto entries, parts_.audit.List(request->after_sequence(), PageSize(request->page_size())));
        for (const AuditRecord& entry : entries) *response->add_entries() = ToProto(entry);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::GetMetadata(grpc::ServerContext* context,
                                           const v1::GetMetadataRequest* request,
                                           v1::GetMetadataResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.FleetService/GetMetadata", NotAudited,
                           [&](const Caller&) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(*response->mutable_content(),
                                                      parts_.repository.ReadMetadata(request->name()));
                             return OkStatus();
                           });
}

grpc::Status FleetServiceImpl::CreateRollout(grpc::ServerContext* context,
                                             const v1::CreateRolloutRequest* request, v1::Rollout* response) {
  const auto text = [&] {
    std::string waves;
    for (const std::string& wave : request->waves()) waves += (waves.empty() ? "" : ",") + wave;
    return fmt::format("channel={} version={} selector={} waves={}", request->channel(), request->version(),
                       request->selector(), waves);
  };
  return parts_.runner.Run(*context, "/sealift.v1.FleetService/CreateRollout", text,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const Rollout rollout, Create(*request, caller));
                             *response = ToProto(rollout);
                             return OkStatus();
                           });
}

Result<Rollout> FleetServiceImpl::Create(const v1::CreateRolloutRequest& request, const Caller& caller) {
  SEALIFT_RETURN_IF_ERROR(CheckText("request_key", request.request_key(), kMaxKeyBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Selector selector, Selector::Parse(request.selector()));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseRecord release,
                           parts_.releases.Get(request.channel(), request.version()));
  for (const ListedRelease& listed : parts_.repository.Releases()) {
    if (listed.channel != release.channel || listed.version != release.version) continue;
    if (!listed.withdrawn.has_value()) continue;
    return MakeError(Code::kFailedPrecondition, Reason::kReleaseWithdrawn,
                     fmt::format("create rollout of {}: the release was withdrawn: {}", release.version,
                                 listed.withdrawn->because));
  }
  // Imported releases may be listed without their files.
  const Status complete = parts_.repository.CheckComplete(release.channel, release.version);
  if (!complete.ok()) return Annotate(complete, fmt::format("create rollout of {}", release.version));
  SEALIFT_ASSIGN_OR_RETURN(const auto nodes,
                           parts_.nodes.List({.selector = selector, .limit = kMaxRolloutNodes + 1}));
  std::vector<NodeId> selected;
  for (const Node& node : nodes) {
    if (node.admission == Admission::kAdmitted) selected.push_back(node.id);
  }
  if (nodes.size() > kMaxRolloutNodes) {
    return MakeError(
        Code::kInvalidArgument, Reason::kSelectorInvalid,
        fmt::format("create rollout of {}: more than {} nodes match '{}'; make several, each for a "
                    "part of the fleet",
                    request.version(), kMaxRolloutNodes, selector.text()));
  }
  if (selected.empty()) {
    return MakeError(Code::kFailedPrecondition, Reason::kSelectorMatchesNothing,
                     fmt::format("create rollout of {}: {} nodes match '{}', {} of them admitted",
                                 request.version(), nodes.size(), selector.text(), selected.size()));
  }
  const std::vector<std::string> sizes(request.waves().begin(), request.waves().end());
  const UnixMillis now = parts_.clock.Now();
  Rollout rollout{.id = MakeUuidV7(now, RandomBytes(10)),
                  .channel = release.channel,
                  .version = release.version,
                  .release_id = release.release_id,
                  .selector = selector.text(),
                  .created = now,
                  .created_by = caller.operator_name,
                  .request_key = request.request_key()};
  SEALIFT_ASSIGN_OR_RETURN(
      rollout.waves, CutWaves(sizes.empty() ? std::vector<std::string>{"100%"} : sizes, std::move(selected)));
  SEALIFT_ASSIGN_OR_RETURN(const Rollout stored, parts_.rollouts.Create(rollout));
  parts_.engine.EvaluateNow();
  if (auto moved = parts_.rollouts.Get(stored.id); moved.ok()) return moved;
  return stored;
}

grpc::Status FleetServiceImpl::SetRolloutState(grpc::ServerContext* context,
                                               const v1::SetRolloutStateRequest* request,
                                               v1::Rollout* response) {
  const auto text = [&] {
    return fmt::format("id={} state={}", request->id(),
                       RolloutStateName(static_cast<RolloutState>(request->state())));
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/SetRolloutState", text, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(
            const Rollout rollout,
            parts_.engine.Order(request->id(), static_cast<RolloutState>(request->state())));
        *response = ToProto(rollout);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::UploadContent(grpc::ServerContext* context,
                                             grpc::ServerReader<v1::UploadContentRequest>* reader,
                                             v1::UploadContentResponse* response) {
  const auto text = [&] {
    return fmt::format("stored={} known={}", response->objects_stored(), response->objects_known());
  };
  return parts_.runner.Run(*context, "/sealift.v1.FleetService/UploadContent", text,
                           [&](const Caller&) { return Upload(*reader, *response); });
}

Status FleetServiceImpl::Upload(grpc::ServerReader<v1::UploadContentRequest>& reader,
                                v1::UploadContentResponse& response) {
  UploadSession session(parts_.content);
  v1::UploadContentRequest part;
  while (reader.Read(&part)) {
    if (part.has_start()) {
      SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest,
                               wire::DigestFromWire("digest", part.start().digest()));
      SEALIFT_RETURN_IF_ERROR(session.Start(digest, part.start().size()));
    } else {
      SEALIFT_RETURN_IF_ERROR(session.Data(AsBytes(part.data())));
    }
  }
  SEALIFT_RETURN_IF_ERROR(session.Finish());
  response.set_objects_stored(session.stored());
  response.set_objects_known(session.known());
  return OkStatus();
}

grpc::Status FleetServiceImpl::PublishTargets(grpc::ServerContext* context,
                                              const v1::PublishTargetsRequest* request,
                                              v1::PublishTargetsResponse* response) {
  const auto text = [&] {
    return fmt::format("targets sha256={} version={}", Sha256(AsBytes(request->targets())).hex(),
                       response->targets_version());
  };
  return parts_.runner.Run(*context, "/sealift.v1.FleetService/PublishTargets", text,
                           [&](const Caller&) { return Publish(*request, *response); });
}

Status FleetServiceImpl::Publish(const v1::PublishTargetsRequest& request,
                                 v1::PublishTargetsResponse& response) {
  SEALIFT_ASSIGN_OR_RETURN(const PublishedVersions versions,
                           parts_.repository.PublishTargets(request.targets()));
  response.set_targets_version(versions.targets);
  response.set_snapshot_version(versions.snapshot);
  response.set_timestamp_version(versions.timestamp);
  // It is public now, whatever became of others: those that cannot be recorded are in the log, and tried
  // again with each publication and start.
  (void)RecordReleases(parts_.repository, parts_.content, parts_.releases);
  return OkStatus();
}

grpc::Status FleetServiceImpl::SetNodeLabels(grpc::ServerContext* context,
                                             const v1::SetNodeLabelsRequest* request, v1::Node* response) {
  const auto text = [&] {
    return fmt::format("id={} labels={}", request->id(), LabelText(request->labels()));
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/SetNodeLabels", text, [&](const Caller&) -> Status {
        const std::map<std::string, std::string> labels(request->labels().begin(), request->labels().end());
        SEALIFT_RETURN_IF_ERROR(CheckLabels(labels));
        SEALIFT_ASSIGN_OR_RETURN(const Node node, FindNode(request->id()));
        SEALIFT_RETURN_IF_ERROR(parts_.nodes.SetLabels(node.id, labels));
        SEALIFT_ASSIGN_OR_RETURN(const Node changed, parts_.nodes.Get(node.id));
        *response = ToProto(changed);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::AdmitEk(grpc::ServerContext* context, const v1::AdmitEkRequest* request,
                                       v1::AdmitEkResponse*) {
  const auto text = [&] {
    return fmt::format("ek={} labels={} note={}", HexOf(request->ek_digest()), LabelText(request->labels()),
                       request->note());
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/AdmitEk", text, [&](const Caller& caller) -> Status {
        AdmittedEk ek{.labels = {request->labels().begin(), request->labels().end()},
                      .note = request->note(),
                      .admitted_by = caller.operator_name,
                      .at = parts_.clock.Now()};
        SEALIFT_ASSIGN_OR_RETURN(ek.ek_digest, wire::DigestFromWire("ek_digest", request->ek_digest()));
        SEALIFT_RETURN_IF_ERROR(CheckLabels(ek.labels));
        SEALIFT_RETURN_IF_ERROR(CheckText("note", ek.note, kMaxNoteBytes));
        return parts_.admission.Admit(ek);
      });
}

grpc::Status FleetServiceImpl::SetNodeAdmission(grpc::ServerContext* context,
                                                const v1::SetNodeAdmissionRequest* request,
                                                v1::Node* response) {
  const auto text = [&] {
    return fmt::format("id={} admission={} reason={}", request->id(),
                       AdmissionName(static_cast<Admission>(request->admission())), request->reason());
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/SetNodeAdmission", text, [&](const Caller&) -> Status {
        if (request->admission() != v1::Node::ADMITTED && request->admission() != v1::Node::QUARANTINED &&
            request->admission() != v1::Node::REVOKED) {
          return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                           "set node admission: only admitted, quarantined and revoked can be asked for");
        }
        SEALIFT_ASSIGN_OR_RETURN(const Node node, FindNode(request->id()));
        if (node.admission == Admission::kPending && request->admission() == v1::Node::ADMITTED &&
            !parts_.approval_admits) {
          return MakeError(Code::kFailedPrecondition, Reason::kNodeNotAdmitted,
                           "set node admission: enrolment.admit takes no approval; list the machine's EK");
        }
        SEALIFT_RETURN_IF_ERROR(
            parts_.nodes.SetAdmission(node.id, static_cast<Admission>(request->admission())));
        SEALIFT_ASSIGN_OR_RETURN(const Node changed, parts_.nodes.Get(node.id));
        parts_.engine.Poke();
        *response = ToProto(changed);
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::RevokeCertificate(grpc::ServerContext* context,
                                                 const v1::RevokeCertificateRequest* request,
                                                 v1::RevokeCertificateResponse*) {
  const auto text = [&] {
    return fmt::format("certificate={} reason={}", HexOf(request->certificate_sha256()), request->reason());
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/RevokeCertificate", text, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest,
                                 wire::DigestFromWire("certificate_sha256", request->certificate_sha256()));
        SEALIFT_RETURN_IF_ERROR(CheckText("reason", request->reason(), kMaxNoteBytes));
        return parts_.certificates.Revoke(digest, request->reason(), parts_.clock.Now());
      });
}

}  // namespace sealift::controller
