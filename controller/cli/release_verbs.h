// `sealift release`: what the build host and an operator do with releases.
#pragma once

#include <memory>
#include <string>

#include "controller/cli/grpc_uploader.h"
#include "controller/cli/verbs.h"

namespace sealift::cli {

// publish, list, and the verbs below. Borrows `session`, which outlives the app.
void AddReleaseVerbs(CLI::App& app, Session& session);
// export, import.
void AddReleaseTransferVerbs(CLI::App& release, Session& session);
// show, withdraw, diff.
void AddReleaseLifeVerbs(CLI::App& release, Session& session);

// One line that is rewritten, on a terminal only.
void ShowProgress(std::string_view what, std::uint64_t done, std::uint64_t all);

// `profile` empty: the default one. Errors: those of LoadProfile and OpenChannel.
Result<std::unique_ptr<GrpcUploader>> ConnectUploader(const std::string& profile);

}  // namespace sealift::cli
