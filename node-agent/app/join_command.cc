#include "node-agent/app/join_command.h"

#include <iostream>

#include "node-agent/app/secret_line.h"
#include "node-agent/link/enrolment.h"
#include "node-agent/update/state_place.h"
#include "shared/base/files.h"

namespace sealift::agent {

Status RunJoin(const Settings& settings) {
  MountedStatePlace place(settings.state_mount, settings.state);
  SEALIFT_RETURN_IF_ERROR(place.CheckMounted());
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes token, ReadSecretLine("Join token", kMaxJoinTokenBytes));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(settings.state, 0700));
  SEALIFT_RETURN_IF_ERROR(JoinTokenFile(settings.state / kJoinTokenFileName).Keep(token));
  std::cout << "the next enrolment brings the join token\n";
  return OkStatus();
}

}  // namespace sealift::agent
